"""Errors in the protocol's shape over HTTP: `{"error": "text"}`, on every path below `/v2`.

Statuses stay as they are in the one table.
"""

from __future__ import annotations

from msgspec import Struct
from starlette.types import ASGIApp, Scope

from server.api.http.errors.protocol_errors import RewordedErrors, is_below

PREFIX = "/v2"
# Cohere's path of reranking, which keeps its own shape.
_OTHERS = ("/v2/rerank",)


class InferenceError(Struct, frozen=True):
    error: str


def with_open_inference_errors(app: ASGIApp) -> ASGIApp:
    """Reword every error on this protocol's paths."""
    return RewordedErrors(app, _is_ours, lambda _, message, __: InferenceError(message))


def _is_ours(scope: Scope) -> bool:
    return is_below(PREFIX, scope) and scope["path"] not in _OTHERS
