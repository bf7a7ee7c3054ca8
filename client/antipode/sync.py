"""The client without asyncio: an event loop in its own thread runs every call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from antipode.client import AsyncClient
from antipode.resilience.retry import RetryPolicy
from antipode.stream import AsyncStream
from antipode.tls import Tls
from antipode.types import Choice, Delta, Embeddings, Options, Prompt, ResumeExactness, Start, Usage

if TYPE_CHECKING:
    # Python 3.10 does not have them.
    from typing import Self, Unpack

T = TypeVar("T")


class Stream:
    """Like AsyncStream; one thread iterates over it or collects it."""

    def __init__(self, stream: AsyncStream, loop: _Loop) -> None:
        self._stream = stream
        self._deltas = aiter(stream)
        self._loop = loop

    @property
    def start(self) -> Start | None:
        return self._stream.start

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    @property
    def resume_exactness(self) -> ResumeExactness:
        return self._stream.resume_exactness

    @property
    def num_retries(self) -> int:
        return self._stream.num_retries

    @property
    def num_resumed(self) -> int:
        return self._stream.num_resumed

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        delta = self._loop.run(_next(self._deltas))
        if delta is None:
            raise StopIteration
        return delta

    def collect(self) -> list[Choice]:
        return self._loop.run(self._stream.collect())

    def close(self) -> None:
        self._loop.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """Like AsyncClient, for any number of threads. Close it, best with `with`."""

    def __init__(
        self,
        *addresses: str,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        api_key: str = "",
        tls: Tls | None = None,
        trust_env: bool = True,
    ) -> None:
        self._loop = _Loop()
        try:
            self._client = self._loop.run(
                _create(
                    addresses,
                    retry=retry,
                    headers=headers,
                    api_key=api_key,
                    tls=tls,
                    trust_env=trust_env,
                )
            )
        except BaseException:
            self._loop.stop()
            raise

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        n: int = 1,
        timeout: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Stream:
        stream = self._client.generate(
            prompt, model=model, n=n, timeout=timeout, request_id=request_id, **options
        )
        return Stream(stream, self._loop)

    def embed(
        self, inputs: str | Sequence[int] | Sequence[str | Sequence[int]], **options: Any
    ) -> Embeddings:
        """As `AsyncClient.embed`."""
        return self._loop.run(self._client.embed(inputs, **options))

    def close(self) -> None:
        self._loop.run(self._client.aclose())
        self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Loop:
    """An event loop in a thread that ends with the program."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="antipode", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine; an interrupt of the waiting thread cancels the coroutine too."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _create(addresses: tuple[str, ...], **options: Any) -> AsyncClient:
    return AsyncClient(*addresses, **options)


async def _next(deltas: Any) -> Delta | None:
    delta: Delta | None = await anext(deltas, None)
    return delta
