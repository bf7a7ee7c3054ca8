"""Words an answer as Anthropic's message: whole, or as a stream of named events.

What a text says is the reader's business, and how blocks grow is the block writer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import UNSET

from server.api.anthropic.block_writer import BlockWriter
from server.api.anthropic.errors import message_error
from server.api.anthropic.response_bodies import (
    MessageAnswer,
    MessageDelta,
    MessageEnd,
    MessageEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    StopReason,
    ThinkingDetails,
)
from server.api.chat.format import ChatPrompt
from server.api.requests.generation import Delta
from server.api.streams.generation_group import GenerationGroup
from server.api.streams.reasoning_count import ReasoningCount
from server.api.tool_calls.events import AnswerEnded
from server.errors import ApiError


class MessageRenderer:
    """One prompt and one choice."""

    def __init__(self, group: GenerationGroup, prompt: ChatPrompt, *, shows_thinking: bool) -> None:
        self._group = group
        self._generation = group.generations[0]
        self._id = f"msg_{self._generation.request.request_id}"
        self._reader = prompt.reader()
        self._writer = BlockWriter(self._id, shows_thinking=shows_thinking)
        self._reasoning = ReasoningCount(self._generation.token_bytes)
        self._end: AnswerEnded | None = None
        self._has_begun = False

    def whole(self, answers: list[list[Delta]]) -> MessageAnswer:
        for delta in answers[0]:
            for _ in self._written(delta):
                pass
        return self._message()

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterator[MessageEvent]:
        if not self._has_begun:
            self._has_begun = True
            yield MessageStart(self._message())
            yield Ping()
        for _, delta in taken:
            yield from self._written(delta)

    def closing(self) -> Iterable[MessageEvent]:
        reason, sequence = self._stop()
        return [MessageDelta(MessageEnd(reason, sequence), self._usage()), MessageStop()]

    def failing(self, error: ApiError) -> Iterable[MessageEvent]:
        return [message_error(error, self._generation.request.request_id)]

    def _written(self, delta: Delta) -> Iterator[MessageEvent]:
        events = self._reader.feed(delta.text)
        if delta.finish_reason:
            events += self._reader.finish(delta.finish_reason, delta.stop_reason)
        self._reasoning.add(delta.token_ids, events)
        for event in events:
            yield from self._writer.write(event)
            if isinstance(event, AnswerEnded):
                self._end = event

    def _message(self) -> MessageAnswer:
        reason, sequence = (None, None) if self._end is None else self._stop()
        return MessageAnswer(
            id=self._id,
            model=self._generation.model,
            content=list(self._writer.blocks),
            stop_reason=reason,
            stop_sequence=sequence,
            usage=self._usage(),
            model_version=self._generation.version,
            seed=self._generation.seed,
        )

    def _stop(self) -> tuple[StopReason, str | None]:
        if self._end is not None and self._end.finish_reason == "length":
            return "max_tokens", None
        if self._end is not None and isinstance(self._end.stop_reason, str):
            return "stop_sequence", self._end.stop_reason
        return ("tool_use" if self._writer.has_tool_use else "end_turn"), None

    def _usage(self) -> MessageUsage:
        """Before the end, only the prompt's tokens are counted."""
        usage, is_whole = self._group.usage, self._end is not None
        return MessageUsage(
            input_tokens=usage.num_prompt_tokens,
            output_tokens=usage.num_generated_tokens if is_whole else 0,
            output_tokens_details=(
                ThinkingDetails(self._reasoning.num_tokens) if is_whole else UNSET
            ),
        )
