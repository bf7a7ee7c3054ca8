"""The client of Antipode: it retries before the first token and resumes after it.

`AsyncClient` and `Client` stream from one or several servers, over gRPC or HTTP. The caller gets
each token once, even if a server or connection broke. Knows neither JAX nor the server.
"""

from antipode.client import AsyncClient
from antipode.errors import (
    AntipodeError,
    AuthenticationError,
    ClosedClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnavailableError,
    VersionGoneError,
)
from antipode.resilience.retry import RetryPolicy
from antipode.stream import AsyncStream
from antipode.sync import Client, Stream
from antipode.tls import Tls
from antipode.types import (
    Call,
    CallDelta,
    Choice,
    Delta,
    Embeddings,
    Grammar,
    Options,
    ResumeExactness,
    Start,
    TokenLogprob,
    Usage,
)

__all__ = [
    "AntipodeError",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "Call",
    "CallDelta",
    "Choice",
    "Client",
    "ClosedClientError",
    "DeadlineExceededError",
    "Delta",
    "Embeddings",
    "Grammar",
    "InvalidRequestError",
    "NotFoundError",
    "Options",
    "OverloadedError",
    "ResumeExactness",
    "RetryPolicy",
    "ServerError",
    "Start",
    "Stream",
    "Tls",
    "TokenLogprob",
    "UnavailableError",
    "Usage",
    "VersionGoneError",
]
