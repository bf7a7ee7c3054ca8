"""What can go wrong, and whether trying again can help.

Each kind says so of itself; the transports translate statuses into kinds, the retry policy looks at
nothing else.
"""

from __future__ import annotations

from typing import ClassVar


class AntipodeError(Exception):
    """A call that failed, after `attempts`. `retry_after` is the wait a server asked for, in s."""

    is_retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.attempts = 1

    def __str__(self) -> str:
        return self.message if self.attempts == 1 else f"{self.message} ({self.attempts} attempts)"


class InvalidRequestError(AntipodeError):
    """The request itself is wrong: no server would take it."""


class NotFoundError(AntipodeError):
    """There is no such model, or no such service at that address."""


class AuthenticationError(AntipodeError):
    """The server does not let this client in."""


class DeadlineExceededError(AntipodeError):
    """The call's `timeout` passed, tries and waits between them included."""


class VersionGoneError(AntipodeError):
    """No server that answered has the model version the stream began on, so none can go on."""

    is_retriable = True


class OverloadedError(AntipodeError):
    """The queue is full."""

    is_retriable = True


class UnavailableError(AntipodeError):
    """No connection, a broken one, silence, or a server that starts or shuts down."""

    is_retriable = True


class ServerError(AntipodeError):
    """The server failed; another one may not."""

    is_retriable = True
