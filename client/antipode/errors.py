"""The errors of a call. Each class says whether trying again can help.

The transports translate statuses into these classes; the retry policy looks only at the classes.
"""

from __future__ import annotations

from typing import ClassVar


class AntipodeError(Exception):
    """A failed call, after `attempts`. `retry_after` is the server's requested wait in seconds."""

    is_retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.attempts = 1

    def __str__(self) -> str:
        return self.message if self.attempts == 1 else f"{self.message} ({self.attempts} attempts)"


class InvalidRequestError(AntipodeError):
    """The request is wrong: every server would refuse it."""


class NotFoundError(AntipodeError):
    """The server has no such model, or the address has no such service."""


class AuthenticationError(AntipodeError):
    """The server refuses this client's credentials."""


class ClosedClientError(AntipodeError):
    """The client was closed, or belongs to the process that this one was forked from."""


class DeadlineExceededError(AntipodeError):
    """The call's `timeout` passed; it includes all tries and the waits between them."""


class VersionGoneError(AntipodeError):
    """No server that answered has the model version of the stream, so none can resume it."""

    is_retriable = True


class OverloadedError(AntipodeError):
    """The server's queue is full."""

    is_retriable = True


class UnavailableError(AntipodeError):
    """No connection, a broken connection, a silent server, or one that starts or shuts down."""

    is_retriable = True


class ServerError(AntipodeError):
    """The server failed; another server may succeed."""

    is_retriable = True
