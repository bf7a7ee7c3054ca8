"""The client without asyncio: an event loop in its own thread runs every call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from antipode.client import AsyncClient
from antipode.resilience.retry import RetryPolicy
from antipode.resilience.usability import Usability
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
        """End the call; a client that is closed has ended it already."""
        if self._loop.is_usable:
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
        """Break running streams, and end their calls. May be called again."""
        if self._loop.is_usable:
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
        self._usability = Usability()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="antipode", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine; an interrupt of the waiting thread cancels the coroutine too.

        ClosedClientError where nothing would run it any more.
        """
        future = self._begin(coroutine)
        try:
            return future.result()
        except CancelledError:
            self._usability.check()
            raise
        except BaseException:
            future.cancel()
            raise

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            self._usability.check()
            # So that nothing begins after all was cancelled.
            with self._lock:
                self._usability.check()
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except BaseException:
            coroutine.close()
            raise

    @property
    def is_usable(self) -> bool:
        return not (self._usability.is_closed or self._usability.is_foreign)

    def stop(self) -> None:
        """End what still runs, so that nobody waits for it, and then the thread."""
        with self._lock:
            self._usability.is_closed = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _create(addresses: tuple[str, ...], **options: Any) -> AsyncClient:
    return AsyncClient(*addresses, **options)


async def _next(deltas: Any) -> Delta | None:
    delta: Delta | None = await anext(deltas, None)
    return delta
