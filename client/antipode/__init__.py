"""The client of Antipode: it retries before the first token and resumes after it.

`AsyncClient` and `Client` stream from one server or several, over gRPC or HTTP; each token comes
once, whatever broke on the way. Nothing here knows JAX or the server.
"""

from antipode.client import AsyncClient
from antipode.errors import (
    AntipodeError,
    AuthenticationError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnavailableError,
    VersionGoneError,
)
from antipode.retry import RetryPolicy
from antipode.stream import AsyncStream
from antipode.sync import Client, Stream
from antipode.types import Choice, Delta, Options, Start, TokenLogprob, Usage

__all__ = [
    "AntipodeError",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "Choice",
    "Client",
    "DeadlineExceededError",
    "Delta",
    "InvalidRequestError",
    "NotFoundError",
    "Options",
    "OverloadedError",
    "RetryPolicy",
    "ServerError",
    "Start",
    "Stream",
    "TokenLogprob",
    "UnavailableError",
    "Usage",
    "VersionGoneError",
]
