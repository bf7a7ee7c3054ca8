"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

Statuses stay as they are in the one table.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Scope

from server.api.anthropic.response_bodies import ErrorType, Fault, MessageError
from server.api.http.errors.protocol_errors import RewordedErrors, is_below
from server.errors import ApiError

PATH = "/v1/messages"
# OpenAI's protocol has this path too.
MODELS_PATH = "/v1/models"
_VERSION_HEADER = b"anthropic-version"
_TYPES: Mapping[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def asks_for_ours(scope: Scope) -> bool:
    """Whether a request is of a client of this protocol, which always sends its version."""
    return any(name == _VERSION_HEADER for name, _ in scope["headers"])


def message_error(error: ApiError, request_id: str) -> MessageError:
    """The event that ends a stream which has failed."""
    return _worded(error.kind.spec.http_status, error.message, request_id)


def with_anthropic_errors(app: ASGIApp) -> ASGIApp:
    """Reword every error of this protocol, and add the header `request-id` to its answers."""
    return RewordedErrors(app, _is_ours, _worded, id_header="request-id")


def _is_ours(scope: Scope) -> bool:
    return is_below(PATH, scope) or (is_below(MODELS_PATH, scope) and asks_for_ours(scope))


def _worded(status: int, message: str, request_id: str) -> MessageError:
    other: ErrorType = "invalid_request_error" if status < 500 else "api_error"
    return MessageError(error=Fault(_TYPES.get(status, other), message), request_id=request_id)
