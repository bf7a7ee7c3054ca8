"""Words the answer to a chat as OpenAI's bodies: whole, or in chunks.

Knows what OpenAI's bodies look like. What a text says is the reader's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import UNSET, UnsetType

from server.api.chat.answer import AnswerReader, WholeAnswer, read_whole
from server.api.chat.format import ChatPrompt
from server.api.http.json_bodies.json_response import finite
from server.api.openai.answering import head, prompt_logprobs, usage_body
from server.api.openai.bodies.request_bodies import ChatBody
from server.api.openai.bodies.response_bodies import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    FunctionCall,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    UsageBody,
)
from server.api.requests.generation import Delta, TokenLogprob
from server.api.streams.generation_group import GenerationGroup
from server.api.tool_calls.events import (
    AnswerEnded,
    ArgumentsDelta,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
)


class ChatRenderer:
    """One prompt. Each choice's first chunk has the role; the response's first has the prompt."""

    def __init__(
        self, body: ChatBody, group: GenerationGroup, prompt: ChatPrompt, *, includes_usage: bool
    ) -> None:
        self._group = group
        self._generation = group.generations[0]
        self._head = head("chatcmpl", self._generation)
        self._returns_ids = bool(body.return_token_ids)
        self._includes_usage = includes_usage
        self._counts_chunks = body.read_counts_chunks()
        self._begun = {
            index
            for index in range(self._generation.request.n)
            if self._generation.received_token_ids(index)
        }
        self._readers = [self._reader(prompt, i) for i in range(self._generation.request.n)]

    def whole(self, answers: list[list[Delta]]) -> ChatCompletion:
        return ChatCompletion(
            **self._head,
            choices=[self._choice(delta) for delta in answers[0]],
            usage=usage_body(self._group.usage),
            prompt_token_ids=self._prompt_token_ids(),
            prompt_logprobs=prompt_logprobs(self._generation),
        )

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterator[ChatCompletionChunk]:
        for _, delta in taken:
            if delta.index not in self._begun:
                yield self._opening(delta.index)
            yield from self._delta_chunks(delta)

    @property
    def _chunk_usage(self) -> UsageBody | UnsetType | None:
        """The counts of a chunk: null where only the last chunk has them."""
        if self._counts_chunks:
            return usage_body(self._group.usage)
        return None if self._includes_usage else UNSET

    def closing(self) -> Iterable[ChatCompletionChunk]:
        if not self._includes_usage:
            return []
        usage = usage_body(self._group.usage)
        return [ChatCompletionChunk(**self._head, choices=[], usage=usage)]

    def _opening(self, index: int) -> ChatCompletionChunk:
        is_first = not self._begun
        self._begun.add(index)
        choice = ChatChunkChoice(index=index, delta=ChatDelta(content="", role="assistant"))
        return ChatCompletionChunk(
            **self._head,
            choices=[choice],
            usage=self._chunk_usage,
            prompt_token_ids=self._prompt_token_ids() if is_first else UNSET,
            prompt_logprobs=prompt_logprobs(self._generation) if is_first else UNSET,
        )

    def _chunk(self, choice: ChatChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[choice], usage=self._chunk_usage)

    def _reader(self, prompt: ChatPrompt, index: int) -> AnswerReader:
        """A reader that has read what a resumed stream's client has already."""
        reader = prompt.reader()
        reader.feed(self._generation.replayed_text(index))
        return reader

    def _delta_chunks(self, delta: Delta) -> Iterator[ChatCompletionChunk]:
        """A chunk per event. The last one carries what belongs to the delta as a whole."""
        reader = self._readers[delta.index]
        events = reader.feed(delta.text)
        if delta.finish_reason:
            events += reader.finish(delta.finish_reason, delta.stop_reason)
        deltas = [worded for event in events if (worded := _worded(event)) is not None]
        if self._returns_ids:
            deltas = [_joined(deltas)]
        if not (deltas or delta.finish_reason or delta.logprobs or self._returns_ids):
            return
        *first, last = deltas or [ChatDelta()]
        for worded in first:
            yield self._chunk(ChatChunkChoice(index=delta.index, delta=worded))
        end = events[-1] if events and isinstance(events[-1], AnswerEnded) else None
        yield self._chunk(self._last_choice(delta, last, end))

    def _last_choice(
        self, delta: Delta, worded: ChatDelta, end: AnswerEnded | None
    ) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=delta.index,
            delta=worded,
            logprobs=_logprobs(delta.logprobs),
            finish_reason=end.finish_reason if end else None,
            stop_reason=end.stop_reason if end else UNSET,
            token_ids=delta.token_ids if self._returns_ids else UNSET,
        )

    def _choice(self, delta: Delta) -> ChatChoice:
        reader = self._readers[delta.index]
        answer = read_whole(reader, delta.text, delta.finish_reason or "error", delta.stop_reason)
        return ChatChoice(
            index=delta.index,
            message=_message(answer),
            logprobs=_logprobs(delta.logprobs),
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
            token_ids=delta.token_ids if self._returns_ids else UNSET,
        )

    def _prompt_token_ids(self) -> list[int] | UnsetType:
        return list(self._generation.prompt_token_ids) if self._returns_ids else UNSET


def _worded(event: Event) -> ChatDelta | None:
    """An event as the delta of a chunk; None for one that OpenAI's deltas do not show."""
    match event:
        case TextDelta(text):
            return ChatDelta(content=text)
        case ReasoningDelta(text):
            return ChatDelta(reasoning_content=text, reasoning=text)
        case CallStarted(index, call_id, name):
            function = FunctionCall(name=name, arguments="")
            call = ToolCallDelta(index=index, id=call_id, type="function", function=function)
            return ChatDelta(tool_calls=[call])
        case ArgumentsDelta(index, text):
            call = ToolCallDelta(index=index, function=FunctionCall(arguments=text))
            return ChatDelta(tool_calls=[call])
        case _:
            return None


def _joined(deltas: list[ChatDelta]) -> ChatDelta:
    """All in one, so that a client that resumes gets tokens together with what they say."""
    content = [delta.content for delta in deltas if delta.content]
    reasoning = "".join(delta.reasoning or "" for delta in deltas) or UNSET
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    return ChatDelta(
        content="".join(content) if content else UNSET,
        tool_calls=calls or UNSET,
        reasoning_content=reasoning,
        reasoning=reasoning,
    )


def _message(answer: WholeAnswer) -> ChatMessage:
    calls = [
        ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
        for call in answer.calls
    ]
    is_empty = not answer.text and bool(calls or answer.reasoning)
    reasoning = answer.reasoning or UNSET
    return ChatMessage(
        content=None if is_empty else answer.text,
        tool_calls=calls or UNSET,
        reasoning_content=reasoning,
        reasoning=reasoning,
    )


def _logprobs(entries: list[TokenLogprob] | None) -> ChatLogprobs | None:
    if entries is None:
        return None
    return ChatLogprobs(
        [
            ChatLogprob(
                token=entry.token,
                logprob=finite(entry.logprob),
                bytes=list(entry.token_bytes),
                top_logprobs=[
                    TopLogprob(c.token, finite(c.logprob), list(c.token_bytes)) for c in entry.top
                ],
            )
            for entry in entries
        ]
    )
