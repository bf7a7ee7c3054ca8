"""Reads answers in gpt-oss's harmony format: messages on channels, each with a header of its own.

The channel `analysis` is reasoning; a message to `functions.NAME` is a call; everything else is
content (OpenAI, "OpenAI harmony response format"). The end marks of the last message are end tokens
of the model, so they may be missing. Knows neither a protocol nor a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from server.api.tool_calls.call_log import call_id
from server.api.tool_calls.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
)
from server.api.tool_calls.marked_calls import overlap

_BODY = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_FUNCTION = re.compile(r"\bto=functions\.([\w.-]+)")
# Prompts end inside the header of the answer's first message.
_HEADER = re.compile(r"\s*(<\|(start|channel|constrain|message)\|>|assistant|to=)")
_LONGEST_HEADER = 1000


def is_harmony(template: str) -> bool:
    """Whether the answers to a chat template's prompts are in this format."""
    return "<|channel|>" in template and _BODY in template


class HarmonyAnswer:
    """A reader of one choice: reasoning, content and calls."""

    def __init__(self) -> None:
        self._held = ""
        self._events: list[Event] = []
        self._num_calls = 0
        self._is_call = False
        self._word: Callable[[str], Event] = TextDelta
        self._state: Callable[[], bool] = self._in_header

    def feed(self, text: str) -> list[Event]:
        self._held += text
        while self._state():
            pass
        return self._take()

    def finish(self) -> list[Event]:
        """The rest: no more text will come. Half a header says nothing, and is dropped."""
        if self._state == self._in_body or not _may_be_header(self._held):
            self._add(self._held)
        if self._is_call:
            self._end_call()
        self._held = ""
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _in_header(self) -> bool:
        header, found, rest = self._held.partition(_BODY)
        if found and _may_be_header(header + found):
            self._held, self._state = rest, self._in_body
            self._open(header)
            return True
        if _may_be_header(self._held) and len(self._held) <= _LONGEST_HEADER:
            return False
        # A model that leaves the format out writes content.
        self._word, self._state = TextDelta, self._in_body
        return True

    def _open(self, header: str) -> None:
        channel, function = _CHANNEL.search(header), _FUNCTION.search(header)
        if function is not None:
            index, self._is_call = self._num_calls, True
            self._num_calls += 1
            self._events.append(CallStarted(index, call_id(), function[1]))
            self._word = lambda text: ArgumentsDelta(index, text)
        elif channel is not None and channel[1] == "analysis":
            self._word = ReasoningDelta
        else:
            self._word = TextDelta

    def _in_body(self) -> bool:
        ends = [(at, end) for end in _ENDS if (at := self._held.find(end)) >= 0]
        if not ends:
            num_held = max(overlap(self._held, end) for end in _ENDS)
            certain = len(self._held) - num_held
            self._add(self._held[:certain])
            self._held = self._held[certain:]
            return False
        at, end = min(ends)
        self._add(self._held[:at])
        if self._is_call:
            self._end_call()
        # A message that begins anew keeps the mark of its beginning.
        self._held = self._held[at if end == "<|start|>" else at + len(end) :]
        self._word, self._state = TextDelta, self._in_header
        return True

    def _add(self, text: str) -> None:
        if text:
            self._events.append(self._word(text))

    def _end_call(self) -> None:
        self._events.append(CallEnded(self._num_calls - 1))
        self._is_call = False


def _may_be_header(text: str) -> bool:
    """Whether a header begins so, as far as the text goes."""
    rest = text.lstrip()
    starts = ("<|start|>", "<|channel|>", "<|constrain|>", _BODY, "assistant", "to=")
    return bool(_HEADER.match(text)) or any(start.startswith(rest) for start in starts)
