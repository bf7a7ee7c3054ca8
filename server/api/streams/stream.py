"""Accepted requests as streams of deltas: one prompt, or several that are answered together.

A reader gets everything that came since its last call, as one delta per choice; a slow reader gets
fewer, larger deltas. However a stream ends early (client gone, cancelled, deadline passed),
`aclose` aborts it in the engine. Knows no transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from server.api.access.work import Work
from server.api.requests.generation import (
    Delta,
    GenerateRequest,
    ResumeExactness,
    TokenLogprob,
    Usage,
)
from server.api.requests.model_directory import NamedModel
from server.api.requests.model_names import stream_version
from server.api.streams.choice import Choice, token_logprob
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.link.client import AbortReason, EngineClient, EngineStream
from server.link.frames import EngineInfo, TokenEvent, TokenLogprobs
from server.link.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A validated request. `seed` is the seed as reported; `params` has the same seed unsigned.

    In a resumed stream, `choices` already contain the tokens that the client has received; some
    choices may have ended with these.
    """

    request: GenerateRequest
    named: NamedModel
    prompt_token_ids: tuple[int, ...]
    seed: int
    params: SamplingParams
    choices: tuple[Choice, ...]

    @property
    def info(self) -> EngineInfo:
        return self.named.info

    @property
    def num_tokens(self) -> int:
        """All tokens that it may take, prompt and generation of every choice."""
        return self.request.n * (len(self.prompt_token_ids) + self.params.max_tokens)

    @property
    def is_complete(self) -> bool:
        """Whether nothing remains to be generated."""
        return all(choice.finish_reason is not None for choice in self.choices)

    @property
    def received(self) -> list[Sequence[int] | None]:
        """The received tokens per choice: None for an ended choice, empty for a new stream."""
        resume = self.request.resume
        if resume is None:
            return []
        received = dict(enumerate(resume.received))
        return [
            None if choice.finish_reason is not None else received.get(choice.index, ())
            for choice in self.choices
        ]


class Generation:
    """One prompt's choices during generation. Iterate for deltas; ApiError if generation fails.

    Every user must close it, best by `async with`. `seed` is the request's seed or the one drawn
    for it. `usage` counts what has been taken so far. `has_started` is true once the engine has
    answered, also with an error.
    """

    def __init__(
        self,
        prepared: PreparedRequest,
        engine: EngineClient,
        tokenizer: Tokenizer,
        stream: EngineStream,
        wakeup: asyncio.Event,
    ) -> None:
        request = prepared.request
        self.request = request
        self.prompt_token_ids = prepared.prompt_token_ids
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self._prompt_entries: Sequence[TokenLogprobs | None] | None = None
        self.seed = prepared.seed
        named = self._named = prepared.named
        self.model = named.adapter or named.info.model
        version = named.version or named.info.version
        self.version = stream_version(version, named.adapter, named.adapter_version or "")
        self._is_exact = prepared.info.is_exact
        self.error: ApiError | None = None
        self.has_started = prepared.is_complete
        self._engine = engine
        self._tokenizer = tokenizer
        self._stream = stream
        self._wakeup = wakeup
        self._on_close: Callable[[], None] | None = None
        self._on_first_token: Callable[[], None] | None = None
        self._choices = prepared.choices
        # The first event of this choice carries the facts about the prompt.
        self._first_index = next((c.index for c in self._choices if not c.finish_reason), None)
        self._num_cached_tokens = 0
        self._submitted_at = time.monotonic()
        self._begun_at: float | None = None
        self._first_token_at: float | None = None
        self._is_closed = False

    @property
    def is_finished(self) -> bool:
        """Whether no more deltas will come."""
        return self.error is not None or all(c.finish_reason is not None for c in self._choices)

    @property
    def has_begun(self) -> bool:
        """Whether the engine has run the prompt, so that an event of it came."""
        return self._begun_at is not None

    @property
    def resume_exactness(self) -> ResumeExactness | None:
        """What a client may expect of the rest if the stream is resumed at another server.

        `exact`: the tokens that this server would have sent, if both run the same programs on the
        same hardware. `consistent`: rounding may turn a token, in float32 only rarely. None in a
        new stream that is not exact.
        """
        if self._is_exact:
            return "exact"
        return None if self.request.resume is None else "consistent"

    @property
    def usage(self) -> Usage:
        return Usage(
            num_prompt_tokens=len(self.prompt_token_ids),
            num_generated_tokens=sum(choice.num_tokens for choice in self._choices),
            num_cached_tokens=self._num_cached_tokens,
        )

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        """The prompt's log probabilities, made of the engine's numbers at the first reading."""
        if self._prompt_entries is not None:
            self._prompt_logprobs = tuple(
                None if entry is None else token_logprob(token_id, entry, self._tokenizer)
                for token_id, entry in zip(self.prompt_token_ids, self._prompt_entries, strict=True)
            )
            self._prompt_entries = None
        return self._prompt_logprobs

    @property
    def num_prompt_entries(self) -> int:
        """How many log probabilities of the prompt there are: what rendering them costs."""
        if self._prompt_entries is None and self._prompt_logprobs is None:
            return 0
        return len(self.prompt_token_ids) * (1 + (self.request.sampling.prompt_logprobs or 0))

    @property
    def num_entries(self) -> int:
        """How many tokens and log probabilities a whole answer has: what its rendering costs."""
        per_token = 1 + (self.request.sampling.logprobs or 0)
        return self.num_prompt_entries + per_token * self.usage.num_generated_tokens

    @property
    def prompt_text(self) -> str:
        """The prompt as the client gave it, or the text of its tokens where they were truncated."""
        prompt = self.request.prompt
        if isinstance(prompt, str) and self.request.truncate_prompt_tokens is None:
            return prompt
        return self._tokenizer.decode(self.prompt_token_ids)

    def work(self) -> Work:
        """What has been done until now, for a trace."""
        usage = self.usage
        return Work(
            model=self.model,
            version=self.version,
            sampling=self.request.sampling,
            n=self.request.n,
            submitted=self._submitted_at,
            begun=self._begun_at,
            first_token=self._first_token_at,
            ended=time.monotonic(),
            num_prompt_tokens=usage.num_prompt_tokens,
            num_cached_tokens=usage.num_cached_tokens,
            num_generated_tokens=usage.num_generated_tokens,
            finish_reasons=tuple(choice.finish_reason or "abort" for choice in self._choices),
            error="" if self.error is None else self.error.kind.value,
        )

    def received_token_ids(self, index: int) -> tuple[int, ...]:
        """The tokens of a choice that a resumed stream's client already has; else empty."""
        resume = self.request.resume
        return resume.received[index] if resume and index < len(resume.received) else ()

    def replayed_text(self, index: int) -> str:
        """The text of a choice that a resumed stream's client already has; else empty."""
        return self._choices[index].replayed_text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""
        return self._tokenizer.token_bytes(token_id)

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself."""
        return self._tokenizer.token_text(token_id)

    def take_nowait(self) -> list[Delta]:
        """Everything that is ready, as one delta per choice; sets `error` if an error ended it."""
        self.advance()
        return [delta for choice in self._choices if (delta := choice.take())]

    async def take(self) -> list[Delta]:
        """Wait for deltas; an empty list is the end. Raises ApiError if the request failed."""
        return [delta for _, delta in await GenerationGroup([self], self._wakeup).take()]

    def advance(self) -> None:
        """Process the engine's events, without waiting."""
        for event in self._stream.take():
            self.has_started = True
            self._receive(event)

    def expire(self) -> None:
        """End with an error, because the client's deadline has passed."""
        if not self.is_finished:
            self._abort("deadline_exceeded")
            self._stream.fail("deadline_exceeded", "the request's deadline passed")

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while deltas := await self.take():
            for delta in deltas:
                yield delta

    def cancel(self) -> None:
        """End every choice that has not ended, with finish reason "abort"."""
        if self.is_finished:
            return
        self._abort("abort")
        for choice in self._choices:
            if choice.finish_reason is None:
                self._stream.put(
                    TokenEvent(
                        request_id=self._stream.request_id,
                        index=choice.index,
                        finish_reason="abort",
                    )
                )

    def on_first_token(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when the first tokens have come."""
        self._on_first_token = callback

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when this generation is closed."""
        self._on_close = callback

    async def aclose(self) -> None:
        """Abort the choices that have not finished. May be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self.is_finished:
            self._abort("abort")
        self._engine.release(self._stream)
        if self._on_close is not None:
            self._on_close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _receive(self, event: TokenEvent) -> None:
        if event.finish_reason == "error":
            if not self.is_finished:
                self.error = error_of(event)
            return
        choice = self._choices[event.index]
        if event.token_ids and self._on_first_token is not None:
            self._on_first_token()
            self._on_first_token = None
        if event.index == self._first_index:
            self._first_index = None
            self._receive_prompt(event)
        was_finished = choice.finish_reason is not None
        choice.advance(event)
        if not was_finished and choice.finish_reason == "stop" and event.finish_reason is None:
            self._abort("stop", event.index)

    def _receive_prompt(self, event: TokenEvent) -> None:
        """Process what comes only once, with the first event of the first choice."""
        if event.version or event.adapter_version:
            self.version = stream_version(event.version, self._named.adapter, event.adapter_version)
        self._num_cached_tokens = event.num_cached_tokens
        self._begun_at = self._submitted_at + event.queued_seconds
        self._first_token_at = time.monotonic()
        if self.request.sampling.prompt_logprobs is not None:
            self._prompt_entries = event.prompt_logprobs

    def _abort(self, reason: AbortReason, index: int | None = None) -> None:
        self._engine.abort(self._stream, index=index, reason=reason)


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


def error_of(event: TokenEvent) -> ApiError:
    kind = ErrorKind(event.error or "internal")
    message = event.message or f"the engine answered: {kind.value}"
    return ApiError(kind, message, retry_after=event.retry_after or None)
