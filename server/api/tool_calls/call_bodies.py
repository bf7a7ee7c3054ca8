"""Reads the body of one call: a JSON object with name and arguments, or a name before arguments.

The arguments are passed on while they come, once the name is known. Until then a body may turn out
to be no call; `raw` is its text, which is then content. Knows not what stands around a body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from server.api.tool_calls.call_log import CallLog
from server.api.tool_calls.gemma4_object import Gemma4Object
from server.api.tool_calls.json_text import JsonText

_ARGUMENT_KEYS = ("arguments", "parameters")
_KEYS = (*_ARGUMENT_KEYS, "name", "type", "id", "function")
_SPACE = " \t\n\r"
_NAME = re.compile(
    r"\s*(?P<name>[A-Za-z0-9_.-]{1,128})\s*(\[CALL_ID\][A-Za-z0-9]+)?\s*(\[ARGS\])?\s*\{"
)
_IN_NAME = re.compile(r"[A-Za-z0-9_.\-\[\]\s]*")
_MAX_NAME_TEXT = 400
_GEMMA4_HEAD = re.compile(r"\s*call:\s*(?P<name>[A-Za-z0-9_.-]{1,128})\s*")
_IN_GEMMA4_HEAD = re.compile(r"[A-Za-z0-9_.:\-\s]*")


class CallBody:
    """The state that both forms share: started, done or broken.

    `accepts` says whether a name is one that may be called here.
    """

    def __init__(self, log: CallLog, accepts: Callable[[str], bool]) -> None:
        self.raw = ""
        self.has_started = False
        self.is_done = False
        self.is_broken = False
        self._log = log
        self._accepts = accepts
        self._arguments: JsonText | None = None

    @property
    def is_open(self) -> bool:
        return not (self.is_done or self.is_broken)

    def feed(self, text: str, start: int) -> int:
        """Read on from `start`. Returns the position of the first character that was not taken."""
        position = start
        while position < len(text) and self.is_open:
            position = self._step(text, position)
        if not self.has_started:
            self.raw += text[start:position]
        return position

    def finish(self) -> None:
        """Pass on what was held of a call that was broken off."""

    def _step(self, text: str, position: int) -> int:
        raise NotImplementedError

    def _start(self, name: str) -> None:
        self.has_started = True
        self._log.start(name)

    def _stream_arguments(self, text: str, position: int, arguments: JsonText) -> int:
        position = arguments.feed(text, position)
        self._log.arguments(arguments.take())
        self.is_broken = arguments.is_broken
        return position


class NamedBody(CallBody):
    """Mistral's newer form: `name{…}`, with the markers [CALL_ID] and [ARGS] in between or not."""

    def __init__(self, log: CallLog, accepts: Callable[[str], bool]) -> None:
        super().__init__(log, accepts)
        self._head = ""

    def _step(self, text: str, position: int) -> int:
        if self._arguments is not None:
            position = self._stream_arguments(text, position, self._arguments)
            self.is_done = self._arguments.is_done
            return position
        match = _IN_NAME.match(text, position)
        end = match.end() if match else position
        self._head += text[position:end]
        if len(self._head) > _MAX_NAME_TEXT:
            self.is_broken = True
        elif end < len(text):
            self._begin_arguments(text[end])
        return end

    def _begin_arguments(self, character: str) -> None:
        head = _NAME.fullmatch(self._head + character)
        if head is None or not self._accepts(head["name"]):
            self.is_broken = True
            return
        self._arguments = JsonText()
        self._start(head["name"])


class Gemma4Body(CallBody):
    """Gemma 4's form: `call:name{…}`, with an object that is no JSON."""

    def __init__(self, log: CallLog, accepts: Callable[[str], bool]) -> None:
        super().__init__(log, accepts)
        self._head = ""
        self._name = ""
        self._object = Gemma4Object()

    def _step(self, text: str, position: int) -> int:
        return self._in_object(text, position) if self._name else self._in_head(text, position)

    def finish(self) -> None:
        self._log.arguments(self._object.finish())

    def _in_head(self, text: str, position: int) -> int:
        match = _IN_GEMMA4_HEAD.match(text, position)
        end = match.end() if match else position
        self._head += text[position:end]
        if len(self._head) > _MAX_NAME_TEXT:
            self.is_broken = True
        elif end < len(text):
            head = _GEMMA4_HEAD.fullmatch(self._head)
            self.is_broken = head is None or text[end] != "{" or not self._accepts(head["name"])
            self._name = "" if self.is_broken or head is None else head["name"]
        return end

    def _in_object(self, text: str, position: int) -> int:
        position = self._object.feed(text, position)
        if self._object.is_certain and not self.has_started:
            self._start(self._name)
        if self.has_started:
            self._log.arguments(self._object.take())
        self.is_done, self.is_broken = self._object.is_done, self._object.is_broken
        return position


class ObjectBody(CallBody):
    """`{"name": …, "arguments": {…}}`, with the keys in any order and other keys between them."""

    def __init__(self, log: CallLog, accepts: Callable[[str], bool]) -> None:
        super().__init__(log, accepts)
        self._expects = "{"
        self._key = ""
        self._value: JsonText | None = None
        self._read: dict[str, Any] = {}

    def _step(self, text: str, position: int) -> int:
        if self._value is not None:
            return self._in_value(text, position, self._value)
        character = text[position]
        if character in _SPACE:
            return position + 1
        match self._expects, character:
            case ("{", "{"):
                self._expects = "key"
            case ("key", '"'):
                self._value = JsonText()
                return position
            case (":", ":"):
                self._expects = "value"
            case ("value", _):
                self._begin_value(character)
                return position
            case ("more", ","):
                self._expects = "key"
            case ("more" | "key", "}"):
                self._end()
            case _:
                self.is_broken = True
                return position
        return position + 1

    def _begin_value(self, character: str) -> None:
        self._value = JsonText()
        name = self._read.get("name")
        if self._key not in _ARGUMENT_KEYS or character != "{" or self.has_started:
            return
        if isinstance(name, str) and self._accepts(name):
            self._arguments = self._value
            self._start(name)

    def _in_value(self, text: str, position: int, value: JsonText) -> int:
        if value is self._arguments:
            position = self._stream_arguments(text, position, value)
        else:
            position = value.feed(text, position)
            self.is_broken = value.is_broken
        if value.is_done and not value.is_broken:
            self._end_value(value)
        return position

    def _end_value(self, value: JsonText) -> None:
        self._value = None
        if self._expects == "key":
            self._key, self._expects = json.loads(value.text), ":"
            self.is_broken = "name" not in self._read and self._key not in _KEYS
            return
        self._expects = "more"
        if value is not self._arguments:
            self._read[self._key] = json.loads(value.text)
            self.is_broken = not self.has_started and not self._is_plausible()

    def _is_plausible(self) -> bool:
        """False once the name is known to be none that may be called here."""
        name = self._read.get("name", "")
        return isinstance(name, str) and (not name or self._accepts(name))

    def _end(self) -> None:
        if not self.has_started:
            call = _complete(self._read)
            if call is None or not self._accepts(call[0]):
                self.is_broken = True
                return
            self._start(call[0])
            self._log.arguments(call[1])
        self.is_done = True


def _complete(read: dict[str, Any]) -> tuple[str, str] | None:
    """Name and arguments of a whole object; None if it is no call."""
    if isinstance(read.get("function"), dict):
        read = read["function"]
    name = read.get("name")
    arguments: Any = next((read[key] for key in _ARGUMENT_KEYS if key in read), {})
    if isinstance(arguments, str):
        arguments = _decoded(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments or {}, dict):
        return None
    return name, json.dumps(arguments or {}, ensure_ascii=False)


def _decoded(arguments: str) -> Any:
    """The value of arguments that were written as text, or the text if it is no JSON."""
    try:
        return json.loads(arguments) if arguments else {}
    except ValueError:
        return arguments
