"""One accepted prompt as a stream of deltas.

A reader gets everything that came since its last call, as one delta per choice; a slow reader gets
fewer, larger deltas. However a stream ends early (client gone, cancelled, deadline passed),
`aclose` aborts it in the engine. Knows no transport.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from server.api.access.work import Work
from server.api.requests.generation import (
    Delta,
    ResumeExactness,
    TokenLogprob,
    Usage,
)
from server.api.requests.model_names import stream_version
from server.api.streams.choice import token_logprob
from server.api.streams.prepared_request import PreparedRequest
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.grammar.grammar_error import SUBJECT
from server.link.client import AbortReason, EngineClient, EngineStream
from server.link.frames import TokenEvent, TokenLogprobs
from server.link.wakeup import Wakeup


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
        wakeup: Wakeup,
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
        return self.error is not None or None not in [c.finish_reason for c in self._choices]

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
        while True:
            self._wakeup.clear()
            if deltas := self.take_nowait():
                return deltas
            if self.error is not None:
                raise self.error
            if self.is_finished:
                return []
            await self._wakeup.wait()

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
                self.error = self._error_of(event)
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

    def _error_of(self, event: TokenEvent) -> ApiError:
        """The engine's error; of a form that cannot be followed, it names the request's field."""
        error, request = error_of(event), self.request
        is_of_form = request.sampling.grammar is not None and error.message.startswith(SUBJECT)
        if is_of_form and request.resume is None:
            return ApiError(error.kind, error.message, param=request.grammar_asked_as)
        return error

    def _abort(self, reason: AbortReason, index: int | None = None) -> None:
        self._engine.abort(self._stream, index=index, reason=reason)


def error_of(event: TokenEvent) -> ApiError:
    kind = ErrorKind(event.error or "internal")
    message = event.message or f"the engine answered: {kind.value}"
    return ApiError(kind, message, retry_after=event.retry_after or None)
