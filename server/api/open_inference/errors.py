"""Errors in the protocol's shape over HTTP: `{"error": "text"}`, on every path below `/v2`.

Statuses stay as they are in the one table.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct
from starlette.types import ASGIApp

from server.api.http.rewording import RewordedErrors, is_below

PREFIX = "/v2"


class InferenceError(Struct, frozen=True):
    error: str


def with_open_inference_errors(app: ASGIApp) -> ASGIApp:
    """Reword every error on this protocol's paths."""
    return RewordedErrors(
        app, partial(is_below, PREFIX), lambda _, message, __: InferenceError(message)
    )
