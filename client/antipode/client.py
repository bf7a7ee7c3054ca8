"""The asyncio client: makes streams from addresses, retry bounds and requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from antipode.address import Address, read_address
from antipode.embedding import as_inputs, embed
from antipode.requests.request import make_request
from antipode.resilience.failover import Transport, Transports
from antipode.resilience.retry import RetryPolicy
from antipode.stream import AsyncStream
from antipode.tls import Tls
from antipode.types import EmbeddingRequest, Embeddings, Options, Prompt

if TYPE_CHECKING:
    # Python 3.10 does not have them.
    from typing import Self, Unpack


class AsyncClient:
    """Calls one server, or the next of several when one fails. Use it in only one event loop.

    An address is `grpc://host:port` or `http://host:port`, or with TLS `grpcs://` or `https://`.
    Every call sends `headers`, over gRPC as metadata, and `api_key` as a bearer token. `tls` says
    what to trust and which certificate to show, for addresses with TLS. `trust_env`: whether HTTP
    uses the proxy environment variables. Raises ValueError for an invalid address.
    """

    def __init__(
        self,
        *addresses: str,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        api_key: str = "",
        tls: Tls | None = None,
        trust_env: bool = True,
    ) -> None:
        if not addresses:
            raise ValueError("a client needs an address, such as grpc://localhost:9000")
        self._retry = retry or RetryPolicy()
        sent = dict(headers or {}) | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        self._transports = Transports(
            [_transport(read_address(address), sent, tls, trust_env) for address in addresses]
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        n: int = 1,
        timeout: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> AsyncStream:
        """A stream of `n` choices for a text, token ids, or a conversation's messages.

        The client sends nothing before the caller reads. `timeout` is in seconds and covers the
        whole call, with retries and waits. Raises InvalidRequestError for an unknown option.
        """
        request = make_request(prompt, options, model=model, n=n, request_id=request_id)
        return AsyncStream(self._transports, request, self._retry, timeout)

    async def embed(
        self,
        inputs: str | Sequence[int] | Sequence[str | Sequence[int]],
        *,
        model: str = "",
        dimensions: int | None = None,
        prompt_name: str = "",
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """The vector of a text or of token ids, or of every entry of a sequence of one of them.

        `dimensions` keeps the first numbers of each vector. `prompt_name` names the text that the
        model's files have for this kind of input, such as query. `max_tokens` cuts longer inputs,
        -1 to what the model takes. `timeout` is in seconds and covers the whole call.
        """
        request = EmbeddingRequest(
            inputs=as_inputs(inputs),
            model=model,
            dimensions=dimensions,
            prompt_name=prompt_name,
            max_tokens=max_tokens,
        )
        deadline = None if timeout is None else time.monotonic() + timeout
        return await embed(self._transports.embed, request, self._retry, deadline)

    async def aclose(self) -> None:
        """Close the connections; this breaks running streams."""
        await self._transports.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _transport(
    address: Address, headers: dict[str, str], tls: Tls | None, trust_env: bool
) -> Transport:
    # A caller loads only the library of the protocol that its addresses use.
    if address.is_grpc:
        from antipode.transports.grpc_transport import GrpcTransport

        tls = (tls or Tls()) if address.is_secure else None
        return GrpcTransport(address.target, headers, tls=tls)
    from antipode.transports.http_transport import HttpTransport

    return HttpTransport(address.target, headers, tls=tls, trust_env=trust_env)
