"""Several accepted prompts of one request, read and answered together. Knows no transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Self

from server.api.requests.generation import Delta, Usage
from server.api.streams.generation import Generation
from server.link.wakeup import Wakeup

type Taken = list[tuple[int, Delta]]


class GenerationGroup:
    """Several prompts of one client request, read together. They share `wakeup`."""

    def __init__(self, generations: Sequence[Generation], wakeup: Wakeup) -> None:
        self.generations = generations
        self._wakeup = wakeup

    @property
    def usage(self) -> Usage:
        usages = [generation.usage for generation in self.generations]
        return Usage(
            num_prompt_tokens=sum(usage.num_prompt_tokens for usage in usages),
            num_generated_tokens=sum(usage.num_generated_tokens for usage in usages),
            num_cached_tokens=sum(usage.num_cached_tokens for usage in usages),
        )

    @property
    def num_prompt_entries(self) -> int:
        """What rendering the prompts' log probabilities costs."""
        return sum(generation.num_prompt_entries for generation in self.generations)

    @property
    def num_entries(self) -> int:
        """What rendering the whole answer costs."""
        return sum(generation.num_entries for generation in self.generations)

    @property
    def first_started(self) -> Generation:
        """The first prompt that the engine has answered for."""
        return next((g for g in self.generations if g.has_started), self.generations[0])

    async def wait_started(self) -> None:
        """Wait until the engine has answered for a prompt; ApiError if it has refused one by then.

        A prompt that waits for a slot must not hold back what another prompt has generated. The
        engine refuses a prompt when it gets it, which is before any other prompt has a token.
        """
        await self._wait_until(any, lambda generation: generation.has_started)

    async def finish(self) -> list[list[Delta]]:
        """Wait for the end. Returns, for each prompt, one delta per choice with all of its text."""
        await self._wait_until(all, lambda generation: generation.is_finished)
        return [generation.take_nowait() for generation in self.generations]

    async def take(self) -> Taken:
        """Wait for deltas, each with its prompt's position. An empty list is the end."""
        while True:
            if taken := self._take_nowait():
                return taken
            self._raise_error()
            if self._is_finished:
                return []
            await self._wakeup.wait()

    async def feed(self, is_ready: Callable[[], bool], consume: Callable[[Taken], None]) -> None:
        """Give deltas to `consume` as they come, as `take` returns them. No task wakes for them.

        Returns when `is_ready` is not, and when no more will come: what is left is for `take`.
        """
        if self._is_finished:
            return
        loop, context = asyncio.get_running_loop(), copy_context()
        is_over: asyncio.Future[None] = loop.create_future()

        def feed_once() -> None:
            if is_over.done():
                return
            try:
                if is_ready():
                    if taken := self._take_nowait():
                        consume(taken)
                    if not self._is_finished:
                        return
                is_over.set_result(None)
            except Exception as error:
                is_over.set_exception(error)

        with self._wakeup.calling(partial(loop.call_soon, feed_once, context=context)):
            await is_over

    async def aclose(self) -> None:
        for generation in self.generations:
            await generation.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _wait_until(
        self,
        quantifier: Callable[[Iterable[bool]], bool],
        is_done: Callable[[Generation], bool],
    ) -> None:
        while True:
            self._wakeup.clear()
            for generation in self.generations:
                generation.advance()
            self._raise_error()
            if quantifier(map(is_done, self.generations)):
                return
            await self._wakeup.wait()

    @property
    def _is_finished(self) -> bool:
        return False not in [generation.is_finished for generation in self.generations]

    def _take_nowait(self) -> Taken:
        self._wakeup.clear()
        return [
            (position, delta)
            for position, generation in enumerate(self.generations)
            for delta in generation.take_nowait()
        ]

    def _raise_error(self) -> None:
        for generation in self.generations:
            if generation.error is not None:
                raise generation.error
