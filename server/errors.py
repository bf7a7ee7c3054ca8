"""The one table of errors: what went wrong → gRPC code → HTTP status → OpenAI error type.

Code that finds a fault raises `ApiError` with a kind of this table and a sentence that says what
was wrong and what to do. The translators only look the kind up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import grpc


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """How one kind of error looks in each protocol. `retry_after` is in seconds.

    `when` and `retry` are for `docs/errors.md`: the cause, and whether to send the request again.
    """

    grpc_code: grpc.StatusCode
    http_status: int
    openai_type: str
    when: str
    retry: str = "no"
    retry_after: int | None = None


class ErrorKind(Enum):
    """The kinds of errors, by the names that the engine and the metrics use."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    VERSION_GONE = "version_gone"
    TOO_LARGE = "too_large"
    QUEUE_FULL = "queue_full"
    OVERLOADED = "overloaded"
    OVER_BUDGET = "over_budget"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def spec(self) -> ErrorSpec:
        return _TABLE[self]


_TABLE = {
    ErrorKind.INVALID_REQUEST: ErrorSpec(
        grpc.StatusCode.INVALID_ARGUMENT,
        400,
        "invalid_request_error",
        "a field is missing, out of its range or not supported, or the prompt does not fit",
    ),
    ErrorKind.UNAUTHENTICATED: ErrorSpec(
        grpc.StatusCode.UNAUTHENTICATED,
        401,
        "authentication_error",
        "a call without a key of `--api-keys-file` or without the client certificate that"
        " `--tls-client-ca-file` asks for, or an admin call without the token of"
        " `--admin-token-file`",
    ),
    ErrorKind.NOT_FOUND: ErrorSpec(
        grpc.StatusCode.NOT_FOUND,
        404,
        "not_found_error",
        "the server does not have the path, the model, or the version that the request names",
    ),
    ErrorKind.CONFLICT: ErrorSpec(
        grpc.StatusCode.FAILED_PRECONDITION,
        409,
        "conflict_error",
        "an admin call that the state of the versions does not allow",
        "after the state has changed",
    ),
    # Unlike for an unknown model, another replica may still serve the version.
    ErrorKind.VERSION_GONE: ErrorSpec(
        grpc.StatusCode.FAILED_PRECONDITION,
        409,
        "version_gone_error",
        "a stream is to be resumed on a version that this server does not have",
        "on another replica",
    ),
    ErrorKind.TOO_LARGE: ErrorSpec(
        grpc.StatusCode.INVALID_ARGUMENT,
        413,
        "invalid_request_error",
        "the body is larger than `--max-body-bytes`",
    ),
    ErrorKind.QUEUE_FULL: ErrorSpec(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        "`--max-queue-len` requests, or too much text to tokenize, wait already",
        "yes",
        retry_after=1,
    ),
    ErrorKind.OVERLOADED: ErrorSpec(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        "the request's deadline cannot be met, given the queue, or a request of a higher priority"
        " took its place in the queue",
        "yes",
        retry_after=1,
    ),
    ErrorKind.OVER_BUDGET: ErrorSpec(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        "the caller's key has used up its requests or tokens of this minute",
        "after the time that the answer names",
        retry_after=1,
    ),
    ErrorKind.DEADLINE_EXCEEDED: ErrorSpec(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        504,
        "timeout_error",
        "the client's own deadline passed",
    ),
    ErrorKind.CANCELLED: ErrorSpec(
        grpc.StatusCode.CANCELLED,
        499,
        "cancelled_error",
        "the client closed the connection, or read nothing for `--write-timeout-seconds`",
    ),
    ErrorKind.UNAVAILABLE: ErrorSpec(
        grpc.StatusCode.UNAVAILABLE,
        503,
        "service_unavailable_error",
        "the server loads its model, drains, or has lost its engine process",
        "yes",
        retry_after=1,
    ),
    ErrorKind.INTERNAL: ErrorSpec(
        grpc.StatusCode.INTERNAL,
        500,
        "internal_server_error",
        "a fault of the server; its log has the cause",
        "on another replica",
    ),
}


class ApiError(Exception):
    """A request's failure, with the message that its client gets.

    `param` names the offending field; `code` is a short machine-readable reason. `retry_after` is
    in seconds: when a retry may help, where that is known better than by the kind.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = kind.spec.retry_after if retry_after is None else retry_after
