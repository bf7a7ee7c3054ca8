"""What every reader of tool calls shares: its interface, and the numbering of calls.

A reader gets the text of one choice in pieces and returns events. It must return the same calls and
the same text however the pieces are cut, and it must lose nothing: text that turns out to be no
call is content.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from collections.abc import Callable
from typing import Protocol

from server.api.tool_calls.events import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    ContentEvent,
    TextDelta,
)

_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")
_MISTRAL_ID_CHARS = string.ascii_letters + string.digits


class CallReader(Protocol):
    """Reads content and calls from the text of one choice."""

    def feed(self, text: str) -> list[ContentEvent]:
        """Take the next piece of text. Returns what is certain by now."""

    def finish(self) -> list[ContentEvent]:
        """Return the rest: no more text will come."""


def call_id() -> str:
    """A new id of a call, in the form of OpenAI's ids."""
    return f"call_{secrets.token_hex(12)}"


def mistral_call_id() -> str:
    """A new id of a call. Mistral's templates take only ids of nine letters and digits."""
    return "".join(secrets.choice(_MISTRAL_ID_CHARS) for _ in range(9))


def mistral_id_of(call_id: str) -> str:
    """The id itself if Mistral's templates take it, else nine letters and digits made from it."""
    if _MISTRAL_ID.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(errors="surrogatepass")).hexdigest()[:9]


class CallLog:
    """Collects the events of one choice: numbers calls, and drops white space next to calls.

    White space at the end of content is held back until more content comes, because a call may
    follow. Without calls, it is returned at the end.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._events: list[ContentEvent] = []
        self._held = ""
        self._num_calls = 0
        self._follows_call = False

    def content(self, text: str) -> None:
        """Add content. White space right after a call is dropped."""
        text = self._held + text
        if self._follows_call:
            text = text.lstrip()
        stripped = text.rstrip()
        self._held = text[len(stripped) :]
        if stripped:
            self._follows_call = False
            self._events.append(TextDelta(stripped))

    def start(self, name: str) -> None:
        self._held = ""
        self._events.append(CallStarted(self._num_calls, self._new_id(), name))
        self._num_calls += 1

    def arguments(self, text: str) -> None:
        if text:
            self._events.append(ArgumentsDelta(self._num_calls - 1, text))

    def end(self) -> None:
        self._events.append(CallEnded(self._num_calls - 1))
        self._follows_call = True

    def finish(self) -> None:
        """Release held white space where no call was made."""
        if self._held and not self._num_calls:
            self._events.append(TextDelta(self._held))
        self._held = ""

    def take(self) -> list[ContentEvent]:
        events, self._events = self._events, []
        return events
