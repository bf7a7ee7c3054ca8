"""The paths and methods that an application has, and advice for a client that asks for others.

Knows the routes as data and the paths of other servers by name. Knows no protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from starlette.routing import BaseRoute, Route

# Paths of other servers (Ollama, TGI, llama.cpp, Triton, older OpenAI), and what they are here.
_ELSEWHERE: Mapping[str, str] = {
    "/api/chat": "/v1/chat/completions",
    "/api/embed": "/v1/embeddings",
    "/api/embeddings": "/v1/embeddings",
    "/api/generate": "/v1/completions",
    "/api/ps": "/v1/models",
    "/api/show": "/v1/models",
    "/api/tags": "/v1/models",
    "/api/version": "/version",
    "/alive": "/livez",
    "/completion": "/v1/completions",
    "/generate": "/v1/completions",
    "/generate_stream": "/v1/completions",
    "/get_model_info": "/v1/models",
    "/healthz": "/health",
    "/info": "/v1/models",
    "/live": "/livez",
    "/model_info": "/v1/models",
    "/ping": "/health",
    "/props": "/v1/models",
    "/ready": "/readyz",
    "/v1/complete": "/v1/completions",
    "/v2/models": "/v1/models",
}
_PREFIX = "/v1"
_LONGEST_QUOTATION = 80
_LEAST_LIKENESS = 0.8


class Paths:
    """The routes of one application."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._fixed = [route.path for route in self._routes if "{" not in route.path]

    def methods_of(self, path: str) -> list[str]:
        """What may be done with a path, HEAD and OPTIONS included; empty if there is none such."""
        methods = {
            method
            for route in self._routes
            if route.path_regex.match(path)
            for method in route.methods or ()
        }
        if not methods:
            return []
        return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))

    def advice(self, path: str) -> str:
        """A sentence for a path that does not exist; it names the path that was probably meant."""
        quotation = path[:_LONGEST_QUOTATION]
        meant = self._meant(path)
        if meant is None:
            names = ", ".join(map(self._named, sorted(self._fixed)))
            return f"there is no path {quotation!r}; there are {names}"
        sentence = f"there is no path {quotation!r}; use {self._named(meant)}"
        if meant.startswith(_PREFIX):
            sentence += f" (the base URL of OpenAI clients ends with {_PREFIX}, and with no slash)"
        return sentence

    def _meant(self, path: str) -> str | None:
        known = set(self._fixed)
        for candidate in _candidates(path):
            if candidate in known:
                return candidate
        likely = get_close_matches(path[:_LONGEST_QUOTATION], known, 1, _LEAST_LIKENESS)
        if likely:
            return likely[0]
        ends = (here for end, here in _ELSEWHERE.items() if path.endswith(end))
        return next((here for here in ends if here in known), None)

    def _named(self, path: str) -> str:
        [method, *_] = [m for m in self.methods_of(path) if m not in ("HEAD", "OPTIONS")] or ["GET"]
        return f"{method} {path}"


def _candidates(path: str) -> Iterator[str]:
    """What a client may have meant, the likeliest first."""
    plain = re.sub("/+", "/", path.lower()).rstrip("/")
    yield plain
    yield _ELSEWHERE.get(plain, "")
    yield _PREFIX + plain
    parts = plain.split("/")
    # A base URL with something before the path, such as /v1/v1 or /openai/deployments/NAME.
    for begin in range(2, len(parts)):
        rest = "/" + "/".join(parts[begin:])
        yield _PREFIX + rest
        yield rest
