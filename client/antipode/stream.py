"""One call as its caller sees it: the loop of tries, which may take several servers.

Knows a transport only as a function from request and progress to events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING

from antipode.errors import AntipodeError, DeadlineExceededError, UnavailableError
from antipode.limits import MAX_CHOICE_TOKENS
from antipode.resilience.failover import Transport, Transports
from antipode.resilience.progress import Progress
from antipode.resilience.retry import Attempts, RetryPolicy
from antipode.resilience.timeouts import TIMEOUTS, timeout_after
from antipode.types import Choice, Delta, Event, Request, ResumeExactness, Start, Usage

if TYPE_CHECKING:
    # Python 3.10 does not have it.
    from typing import Self

# How long the client waits for the end of an answer that is complete, to keep its connection.
_END_SECONDS = 1.0


class AsyncStream:
    """Iterate over it for deltas, or `await collect()`. Close it, best with `async with`.

    `num_retries` counts failures before the first token, `num_resumed` those after it.
    `resume_exactness` is what the servers promise of the rest of a stream that was resumed: the
    tokens of the unbroken stream (`exact`), or tokens that follow from those received but may
    differ from the unbroken stream where rounding decides (`consistent`).
    """

    def __init__(
        self, transports: Transports, request: Request, policy: RetryPolicy, timeout: float | None
    ) -> None:
        self.num_retries = 0
        self.num_resumed = 0
        self._transports = transports
        self._request = request
        self._policy = policy
        self._progress = Progress(request.n, _max_tokens(request))
        deadline = None if timeout is None else time.monotonic() + timeout
        self._attempts = Attempts(policy, deadline)
        self._deltas = self._run()

    @property
    def start(self) -> Start | None:
        """How the stream began; None before its first token."""
        return self._progress.start

    @property
    def usage(self) -> Usage | None:
        """The token counts; None before the end, and where the server sends none."""
        return self._progress.usage

    @property
    def resume_exactness(self) -> ResumeExactness:
        """`consistent` until every server of this stream has promised more."""
        return self._progress.resume_exactness

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas

    async def collect(self) -> list[Choice]:
        """Read to the end; returns every choice in one piece."""
        choices = [Choice(index=index) for index in range(self._request.n)]
        async for delta in self._deltas:
            choices[delta.index].add(delta)
        return choices

    async def aclose(self) -> None:
        """End the call; the server stops at once. May be called again."""
        await self._deltas.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run(self) -> AsyncGenerator[Delta]:
        while True:
            transport = self._transports.current
            try:
                async with aclosing(self._try(transport)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except AntipodeError as error:
                delay = self._attempts.delay_after(error, time.monotonic())
                self._transports.pass_turn(transport)
                self._count()
                await asyncio.sleep(delay)

    def _count(self) -> None:
        if self._progress.resume is None:
            self.num_retries += 1
        else:
            self.num_resumed += 1

    async def _try(self, transport: Transport) -> AsyncGenerator[Delta]:
        """The deltas from one server; raises an error unless the call is complete at its end."""
        timeout = self._attempts.remaining(time.monotonic())
        call = transport.call(self._request, self._progress.resume, timeout)
        async with aclosing(call) as events:
            silent_since = time.monotonic()
            while (event := await self._next(events, silent_since)) is not None:
                if delta := self._progress.take(event):
                    yield delta
                    silent_since = time.monotonic()
                if self._progress.is_complete:
                    await _end(events)
                    return
        if not self._progress.has_ended:
            raise UnavailableError("the stream broke off")

    async def _next(self, events: AsyncGenerator[Event], silent_since: float) -> Event | None:
        """The next event, None at the end; raises an error if the server is silent for too long.

        Events that bring nothing are silence too.
        """
        stall, now = self._policy.stall_timeout, time.monotonic()
        remaining = self._attempts.remaining(now)
        patience = silent_since + stall - now
        try:
            if patience <= 0:
                raise TimeoutError
            async with timeout_after(patience if remaining is None else min(patience, remaining)):
                return await anext(events, None)
        except TIMEOUTS:
            self._attempts.remaining(time.monotonic())
            raise UnavailableError(f"the server said nothing for {stall:g} s") from None
        except DeadlineExceededError as error:
            # A deadline of a gateway or server, not of the caller.
            self._attempts.remaining(time.monotonic())
            raise UnavailableError(error.message) from error


def _max_tokens(request: Request) -> int:
    asked = request.options.get("max_tokens")
    return asked if isinstance(asked, int) and asked > 0 else MAX_CHOICE_TOKENS


async def _end(events: AsyncGenerator[Event]) -> None:
    """Let an answer end by itself; how it ends does not matter, because it is complete."""
    with contextlib.suppress(AntipodeError, *TIMEOUTS):
        async with timeout_after(_END_SECONDS):
            await anext(events, None)
