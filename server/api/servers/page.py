"""The page for people at `/`: one file without anything from outside, so it works offline.

The page asks the same endpoints as every client does. This module knows only the file and how a
browser must treat it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse

# The page runs its own script and style, and talks to its own server.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_class=HTMLResponse)
    async def get_page() -> HTMLResponse:
        return HTMLResponse(_page(), headers=_HEADERS)

    return router


@cache
def _page() -> str:
    return (files("server.api.servers") / "page.html").read_text(encoding="utf-8")
