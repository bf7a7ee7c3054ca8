"""The admin API for people with curl: the same calls as antipode.v1.Versions, as JSON.

    GET /versions                    POST /versions/2/load     {"path": ..., "policy": ...}
    GET /versions/2                  POST /versions/2/promote
    POST /rollback                   POST /versions/2/unload
    GET /adapters                    POST /adapters/sql/load   {"version": ..., "path": ...}
                                     POST /adapters/sql/unload

An application with a port of its own. Knows no rules: the version manager decides what is allowed.
"""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.access.gatekeeper import Gatekeeper
from server.api.adapter_admin import AdapterAdmin
from server.api.http.errors.error_responses import add_error_handlers, error_response
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.access import AuthorizationMiddleware, CallMiddleware
from server.api.http.middleware.body_limit import BodyLimitMiddleware
from server.api.http.middleware.request_id import RequestIdMiddleware
from server.api.http.routes.methods import MethodsMiddleware
from server.api.http.routes.paths import Paths
from server.api.version_admin import VersionAdmin
from server.errors import ApiError
from server.link.status import AdapterStatus

MAX_BODY_BYTES = 1 << 16


class LoadBody(BaseModel):
    """Where a version is, by default next to the served one, and where its weights go."""

    model_config = ConfigDict(extra="forbid")

    path: str = ""
    policy: str | None = None


class LoadAdapterBody(BaseModel):
    """Which version of an adapter, by default the newest, or where the adapter is."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = None
    path: str = ""


class AdapterList(Struct, frozen=True):
    adapters: tuple[AdapterStatus, ...]


class VersionList(Struct, frozen=True):
    """`config_error` says why the server does not follow the model configuration file."""

    model: str
    versions: list[dict[str, object]]
    config_error: str


def create_admin_app(
    admin: VersionAdmin, adapters: AdapterAdmin, gatekeeper: Gatekeeper | None = None
) -> ASGIApp:
    """The application for one API process. Every call needs `authorization: Bearer TOKEN`.

    `admin` checks the token; `gatekeeper`, which must know no API keys, records calls.
    """

    app = FastAPI(
        title="Antipode versions",
        openapi_url=None,
        redirect_slashes=False,
        default_response_class=Response,
    )
    _add_reading(app, admin)
    _add_changes(app, admin)
    _add_adapters(app, adapters)
    paths = Paths(app.routes)
    add_error_handlers(app, paths)
    limited = BodyLimitMiddleware(app, max_body_bytes=MAX_BODY_BYTES)
    gatekeeper = gatekeeper or Gatekeeper()
    with_token = _AdminTokenMiddleware(MethodsMiddleware(limited, paths), admin)
    let_in = AuthorizationMiddleware(with_token, gatekeeper)
    return RequestIdMiddleware(CallMiddleware(let_in, gatekeeper))


class _AdminTokenMiddleware:
    """Answers 401 to calls without the token, before their body is read."""

    def __init__(self, app: ASGIApp, admin: VersionAdmin) -> None:
        self._app, self._admin = app, admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._admin.authorize(Headers(scope=scope).get("authorization", ""))
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _add_reading(app: FastAPI, admin: VersionAdmin) -> None:
    @app.get("/versions")
    async def list_versions() -> Response:
        versions = [msgspec.to_builtins(status) for status in admin.list()]
        return json_response(VersionList(admin.model, versions, admin.config_error))

    @app.get("/versions/{version}")
    async def get_status(version: str) -> Response:
        return json_response(admin.status(version))


def _add_changes(app: FastAPI, admin: VersionAdmin) -> None:
    @app.post("/versions/{version}/load")
    async def load(version: str, body: LoadBody | None = None) -> Response:
        body = body or LoadBody()
        return json_response(await admin.load(version, body.path, body.policy))

    @app.post("/versions/{version}/promote")
    async def promote(version: str) -> Response:
        return json_response(await admin.promote(version))

    @app.post("/versions/{version}/unload")
    async def unload(version: str) -> Response:
        return json_response(await admin.unload(version))

    @app.post("/rollback")
    async def roll_back() -> Response:
        return json_response(await admin.roll_back())


def _add_adapters(app: FastAPI, adapters: AdapterAdmin) -> None:
    @app.get("/adapters")
    async def list_adapters() -> Response:
        return json_response(AdapterList(adapters.list()))

    @app.post("/adapters/{name}/load")
    async def load_adapter(name: str, body: LoadAdapterBody | None = None) -> Response:
        body = body or LoadAdapterBody()
        return json_response(await adapters.load(name, body.version, body.path))

    @app.post("/adapters/{name}/unload")
    async def unload_adapter(name: str) -> Response:
        await adapters.unload(name)
        return json_response(AdapterList(adapters.list()))
