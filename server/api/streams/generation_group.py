"""Several accepted prompts of one request, read and answered together. Knows no transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from server.api.requests.generation import (
    Delta,
    Usage,
)
from server.api.streams.generation import Generation


class GenerationGroup:
    """Several prompts of one client request, read together. They share `wakeup`."""

    def __init__(self, generations: Sequence[Generation], wakeup: asyncio.Event) -> None:
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

    async def take(self) -> list[tuple[int, Delta]]:
        """Wait for deltas, each with its prompt's position. An empty list is the end."""
        while True:
            self._wakeup.clear()
            taken = [
                (position, delta)
                for position, generation in enumerate(self.generations)
                for delta in generation.take_nowait()
            ]
            if taken:
                return taken
            self._raise_error()
            if all(generation.is_finished for generation in self.generations):
                return []
            await self._wakeup.wait()

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

    def _raise_error(self) -> None:
        for generation in self.generations:
            if generation.error is not None:
                raise generation.error
