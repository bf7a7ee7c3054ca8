"""Reads calls that stand after a marker, or at the start of the text.

Hermes, Llama 3, Mistral and Gemma 4 write them so.

A `CallForm` says what a family writes around the bodies of its calls. One state machine reads them
all: content until a marker, a body, what may stand after a body, and content again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from server.api.tool_calls.call_bodies import CallBody, Gemma4Body, NamedBody, ObjectBody
from server.api.tool_calls.call_log import CallLog, call_id, mistral_call_id
from server.api.tool_calls.events import ContentEvent

_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How a family writes calls.

    `marker` opens calls. `after` may follow a call's body. `bare` takes a call at the start of the
    text without a marker, if it names one of the tools. `named` takes a name before the arguments
    where no object begins, `listed` takes a list of objects. `own` reads a body that is neither.
    """

    marker: str
    after: tuple[str, ...] = ()
    bare: bool = False
    named: bool = False
    listed: bool = False
    own: Callable[[CallLog, Callable[[str], bool]], CallBody] | None = None
    new_id: Callable[[], str] = call_id


HERMES = CallForm(marker="<tool_call>", after=("</tool_call>",))
LLAMA3_JSON = CallForm(marker="<|python_tag|>", after=(";",), bare=True)
MISTRAL = CallForm(marker="[TOOL_CALLS]", named=True, listed=True, new_id=mistral_call_id)
# The last word is how the model hands over to its tools; it is an end token where files say so.
GEMMA4 = CallForm(
    marker="<|tool_call>", after=("<tool_call|>", "<|tool_response>"), named=True, own=Gemma4Body
)


class MarkedCalls:
    """A reader of calls in one form. `names` are the tools that may be called without a marker."""

    def __init__(self, form: CallForm, names: Collection[str]) -> None:
        self._form = form
        self._names = names
        self._log = CallLog(form.new_id)
        self._state: Callable[[], bool] = self._at_start if form.bare else self._in_content
        self._held = ""
        # The text from a marker on, which is content if no call follows.
        self._raw = ""
        self._body: CallBody | None = None
        self._is_listed = False

    def feed(self, text: str) -> list[ContentEvent]:
        self._held += text
        while self._state():
            pass
        return self._log.take()

    def finish(self) -> list[ContentEvent]:
        if self._body is not None and self._body.has_started:
            self._body.finish()
            self._log.end()
        elif self._state == self._after_call:
            self._held = ""
        if self._body is None or not self._body.has_started:
            body = "" if self._body is None else self._body.raw
            self._log.content(self._raw + body + self._held)
        self._log.finish()
        self._body, self._raw, self._held = None, "", ""
        return self._log.take()

    # Each state takes from `_held` and returns whether the next state can go on.

    def _at_start(self) -> bool:
        rest = self._held.lstrip(_SPACE)
        if not rest:
            return False
        if rest[0] == "{":
            self._raw, self._held = self._held[: -len(rest)], rest
            self._begin(ObjectBody(self._log, self._names.__contains__))
        else:
            self._state = self._in_content
        return True

    def _in_content(self) -> bool:
        marker = self._form.marker
        before, found, after = self._held.partition(marker)
        if found:
            self._log.content(before)
            self._raw, self._held, self._state = marker, after, self._after_marker
            return True
        num_certain = len(self._held) - overlap(self._held, marker)
        self._log.content(self._held[:num_certain])
        self._held = self._held[num_certain:]
        return False

    def _after_marker(self) -> bool:
        rest = self._held.lstrip(_SPACE)
        self._raw += self._held[: len(self._held) - len(rest)]
        self._held = rest
        if not rest:
            return False
        if self._form.own is not None:
            self._begin(self._form.own(self._log, _any_name))
        elif self._form.listed and rest[0] == "[" and not self._is_listed:
            self._is_listed = True
            self._raw, self._held = self._raw + "[", rest[1:]
        elif self._form.named and not self._is_listed and rest[0] != "{":
            self._begin(NamedBody(self._log, _any_name))
        else:
            self._begin(ObjectBody(self._log, _any_name))
        return True

    def _begin(self, body: CallBody) -> None:
        self._body, self._state = body, self._in_body

    def _in_body(self) -> bool:
        body = self._body
        assert body is not None
        self._held = self._held[body.feed(self._held, 0) :]
        if body.is_open:
            return False
        self._body = None
        if body.has_started:
            self._log.end()
            self._raw = ""
        if body.is_broken:
            self._give_up(body)
        else:
            self._state = self._after_call
        return True

    def _give_up(self, body: CallBody) -> None:
        """What was read is no call, or no more of it is: go on with content."""
        if not body.has_started:
            self._log.content(self._raw + body.raw)
        self._raw, self._is_listed, self._state = "", False, self._in_content

    def _after_call(self) -> bool:
        rest = self._held.lstrip(_SPACE)
        for word in self._after:
            if rest.startswith(word):
                self._is_listed = self._is_listed and word != "]"
                self._held = rest[len(word) :]
                return True
        if not rest or any(word.startswith(rest) for word in self._after):
            return False
        if rest[0] == "{" and (self._is_listed or not self._form.named):
            self._held, self._state = rest, self._after_marker
        else:
            self._is_listed, self._state = False, self._in_content
        return True

    @property
    def _after(self) -> tuple[str, ...]:
        """The words that may follow a call here."""
        return (*self._form.after, *((",", "]") if self._is_listed else ()))


def overlap(text: str, word: str) -> int:
    """The length of the longest end of `text` that is a beginning of `word`, but not all of it."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0


def _any_name(_: str) -> bool:
    return True
