"""Words what came for a choice as messages of antipode.v1; a chat's text is split by its reader.

A delta is one message, so that the tokens and what they say arrive together. Knows neither calls
nor the service.
"""

from __future__ import annotations

from server.api.antipode_v1 import translate
from server.api.chat.answer import AnswerReader
from server.api.chat.format import ChatPrompt
from server.api.requests.generation import Delta
from server.api.streams.generation import Generation
from server.api.tool_calls.events import (
    AnswerEnded,
    ArgumentsDelta,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
)
from server.pb.antipode.v1 import generation_pb2 as pb


class AnswerWriter:
    """One per call. `chat` is None for a prompt that is no chat."""

    def __init__(
        self, generation: Generation, chat: ChatPrompt | None, *, with_token_ids: bool
    ) -> None:
        self._with_token_ids = with_token_ids
        self._readers = [
            None if chat is None else _reader(chat, generation.replayed_text(index))
            for index in range(generation.request.n)
        ]

    def response(self, delta: Delta) -> pb.GenerateResponse:
        """One message; the caller adds `start` and `usage`."""
        message = translate.response(delta, with_token_ids=self._with_token_ids)
        reader = self._readers[delta.index]
        if reader is not None:
            message.ClearField("text")
            for event in _events(reader, delta):
                _add(event, message)
        return message


def _reader(chat: ChatPrompt, replayed_text: str) -> AnswerReader:
    """A reader that has read what a resumed stream's client has already."""
    reader = chat.reader()
    reader.feed(replayed_text)
    return reader


def _events(reader: AnswerReader, delta: Delta) -> list[Event]:
    events = reader.feed(delta.text)
    if delta.finish_reason is not None:
        events += reader.finish(delta.finish_reason, delta.stop_reason)
    return events


def _add(event: Event, message: pb.GenerateResponse) -> None:
    match event:
        case TextDelta(text):
            message.text += text
        case ReasoningDelta(text):
            message.reasoning += text
        case CallStarted(index, call_id, name):
            message.calls.add(index=index, id=call_id, name=name)
        case ArgumentsDelta(index, text):
            if not (message.calls and message.calls[-1].index == index):
                message.calls.add(index=index)
            message.calls[-1].arguments += text
        case AnswerEnded(finish_reason):
            message.finish_reason = translate.FINISH_REASONS[finish_reason]
