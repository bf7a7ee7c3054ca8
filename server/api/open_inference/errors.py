"""Errors in the protocol's shape over HTTP, `{"error": "text"}`: on every path below `/v2`.

Cohere's path there keeps the shape of its own protocol. Statuses stay as they are in the one table.
"""

from __future__ import annotations

from msgspec import Struct
from starlette.types import ASGIApp

from server.api.http.rewording import RewordedErrors

PREFIX = "/v2"
# Cohere's path of reranking.
_OTHERS = ("/v2/rerank",)


class InferenceError(Struct, frozen=True):
    error: str


def with_open_inference_errors(app: ASGIApp) -> ASGIApp:
    """Reword every error on this protocol's paths."""
    return RewordedErrors(
        app, PREFIX, lambda _, message, __: InferenceError(message), others=_OTHERS
    )
