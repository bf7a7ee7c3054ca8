"""One choice of one request: takes token events, gives deltas of text and tokens.

All events between two reads are merged into one delta, however late the reader is. Knows neither
transport nor engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.api.requests.generation import Delta, Sampling, TokenLogprob
from server.api.streams.stop_strings import StopMatcher
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.link.frames import FinishReason, TokenEvent, TokenLogprobs
from server.link.sampling import SamplingParams


class Choice:
    """Detokenises tokens, looks for stop strings, and collects the next delta.

    `replayed_text` is what a resumed stream's client has received already.
    `num_tokens` counts all tokens of the choice. Events after the `finish_reason` are ignored: the
    engine may run one step past a stop string.
    """

    def __init__(self, index: int, sampling: Sampling, tokenizer: Tokenizer) -> None:
        self.index = index
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.replayed_text = ""
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=sampling.skip_special_tokens)
        self._stop = StopMatcher(sampling.stop, include=sampling.include_stop_str_in_output)
        self._delta: Delta | None = None

    def advance(self, event: TokenEvent) -> None:
        """Process the event of one step. Events of the same choice come in order."""
        if self._sampling.max_tokens == 0 and self.finish_reason is None:
            self._end("length", None)
        last = len(event.token_ids) - 1
        for position, token_id in enumerate(event.token_ids):
            if self.finish_reason is not None:
                return
            logprobs = event.logprobs[position] if event.logprobs else None
            self._append(token_id, logprobs)
            is_stop_token = position == last and event.finish_reason == "stop"
            if not is_stop_token or self._sampling.include_stop_str_in_output:
                self._append_text(self._detokenizer.step(token_id))
        if self.finish_reason is None and event.finish_reason is not None:
            self._finish(event)

    def replay(self, token_ids: Sequence[int], params: SamplingParams, eos: Sequence[int]) -> None:
        """Process the tokens that another replica has sent. They count, but are not sent again.

        If the choice ended with these tokens, only its end is sent again. Raises ApiError for
        tokens after the end.
        """
        stop_token_ids = {*params.stop_token_ids, *(() if params.ignore_eos else eos)}
        # Under a grammar they end a choice whatever else was asked for.
        ends = set(eos) if params.grammar is not None else set()
        for token_id in token_ids:
            if self.finish_reason is not None:
                raise ApiError(
                    ErrorKind.INVALID_REQUEST,
                    f"resume has tokens of choice {self.index} after the choice's end",
                    param="resume",
                )
            is_stop = token_id in stop_token_ids
            num_tokens = self.num_tokens + 1
            reason = _engine_reason(num_tokens, params, is_stop_token=is_stop)
            reason = "stop" if token_id in ends else reason
            self.advance(TokenEvent(request_id=0, token_ids=[token_id], finish_reason=reason))
        replayed = self.take()
        self.replayed_text = "" if replayed is None else replayed.text
        if replayed is not None and replayed.finish_reason is not None:
            self._end(replayed.finish_reason, replayed.stop_reason)

    def take(self) -> Delta | None:
        """Everything since the last call; None if there is nothing."""
        delta, self._delta = self._delta, None
        return delta

    def _pending(self) -> Delta:
        if self._delta is None:
            wants_logprobs = self._sampling.logprobs is not None
            self._delta = Delta(index=self.index, logprobs=[] if wants_logprobs else None)
        return self._delta

    def _append(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        delta = self._pending()
        delta.token_ids.append(token_id)
        self.num_tokens += 1
        if delta.logprobs is not None and logprobs is not None:
            delta.logprobs.append(token_logprob(token_id, logprobs, self._tokenizer))

    def _append_text(self, text: str) -> None:
        if self.num_tokens <= (self._sampling.min_tokens or 0):
            # No part of the text that is still to come can end the choice.
            self._pending().text += text
            return
        self._pending().text += self._stop.feed(text)
        if self._stop.matched is not None:
            self._end("stop", self._stop.matched)

    def _finish(self, event: TokenEvent) -> None:
        self._append_text(self._detokenizer.flush())
        if self.finish_reason is not None or event.finish_reason is None:
            return
        self._pending().text += self._stop.flush()
        token_id = event.token_ids[-1] if event.token_ids else None
        is_requested = token_id in self._sampling.stop_token_ids
        stopped_by = token_id if event.finish_reason == "stop" and is_requested else None
        self._end(event.finish_reason, stopped_by)

    def _end(self, finish_reason: FinishReason, stop_reason: str | int | None) -> None:
        self.finish_reason = finish_reason
        delta = self._pending()
        delta.finish_reason = finish_reason
        delta.stop_reason = stop_reason


def _engine_reason(
    num_tokens: int, params: SamplingParams, *, is_stop_token: bool
) -> FinishReason | None:
    """The reason for which the engine ended a choice at this token, if it ended the choice."""
    if is_stop_token and num_tokens > params.min_tokens:
        return "stop"
    return "length" if num_tokens >= params.max_tokens else None


def token_logprob(token_id: int, logprobs: TokenLogprobs, tokenizer: Tokenizer) -> TokenLogprob:
    """The log probability of a token and its alternatives, with their texts and bytes."""

    def named(token_id: int, logprob: float, top: Sequence[TokenLogprob] = ()) -> TokenLogprob:
        token_bytes = tokenizer.token_bytes(token_id)
        text = token_bytes.decode(errors="replace")
        return TokenLogprob(token_id, text, token_bytes, logprob, tuple(top))

    return named(token_id, logprobs.logprob, [named(*candidate) for candidate in logprobs.top])
