"""Reads calls in the tags of Qwen3-Coder: a function's name, and a tag per argument.

Values come as plain text, so the tool's schema says which of them are JSON. A call is passed on
when it is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from server.api.tool_calls.call_log import CallLog, call_id
from server.api.tool_calls.events import ContentEvent
from server.api.tool_calls.marked_calls import overlap

_SPACE = " \t\n\r"
_OUTER, _FUNCTION = "<tool_call>", "<function="
_END, _OUTER_END = "</function>", "</tool_call>"
_CALL = re.compile(r"(?s)(?:<tool_call>\s*)?<function=([^<>\n]+)>(.*)</function>")
_PARAMETER = re.compile(r"(?s)<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>")

type Schemas = Mapping[str, Mapping[str, Any]]


class TaggedCalls:
    """A reader of calls of the tools in `schemas`, which has their arguments' schemas by name."""

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._log = CallLog(call_id)
        self._held = ""
        self._num_scanned = 0
        self._state: Callable[[], bool] = self._in_content

    def feed(self, text: str) -> list[ContentEvent]:
        self._held += text
        while self._state():
            pass
        return self._log.take()

    def finish(self) -> list[ContentEvent]:
        self._log.content("" if self._state == self._after_call else self._held)
        self._log.finish()
        self._held = ""
        return self._log.take()

    def _in_content(self) -> bool:
        found = [at for word in (_OUTER, _FUNCTION) if (at := self._held.find(word)) >= 0]
        if not found:
            num_held = max(overlap(self._held, word) for word in (_OUTER, _FUNCTION))
            return self._release(len(self._held) - num_held)
        self._release(min(found))
        self._state, self._num_scanned = self._in_call, 0
        return True

    def _release(self, length: int) -> bool:
        self._log.content(self._held[:length])
        self._held = self._held[length:]
        return False

    def _in_call(self) -> bool:
        """`_held` begins with one of the two opening tags."""
        rest = self._held.removeprefix(_OUTER).lstrip(_SPACE)
        if not rest.startswith(_FUNCTION):
            if _FUNCTION.startswith(rest):
                return False
            return self._give_up()
        end = self._held.find(_END, max(0, self._num_scanned - len(_END)))
        if end < 0:
            self._num_scanned = len(self._held)
            return False
        end += len(_END)
        call = _CALL.fullmatch(self._held[:end])
        if call is None:
            return self._give_up()
        self._held, self._state = self._held[end:], self._after_call
        self._log.start(call[1])
        self._log.arguments(self._arguments(call[1], call[2]))
        self._log.end()
        return True

    def _give_up(self) -> bool:
        """The opening tag is content, and so may be all behind it."""
        self._release(len(_OUTER if self._held.startswith(_OUTER) else _FUNCTION))
        self._state = self._in_content
        return True

    def _after_call(self) -> bool:
        rest = self._held.lstrip(_SPACE)
        if rest.startswith(_OUTER_END):
            self._held = rest[len(_OUTER_END) :]
        elif _OUTER_END.startswith(rest):
            return False
        self._state = self._in_content
        return True

    def _arguments(self, name: str, body: str) -> str:
        properties = self._schemas.get(name, {}).get("properties", {})
        arguments = {
            key: _value(text, properties.get(key)) for key, text in _PARAMETER.findall(body)
        }
        return json.dumps(arguments, ensure_ascii=False)


def _value(text: str, schema: object) -> Any:
    types = _types(schema)
    if not types or ("string" in types and text != "null") or (text == "null" not in types):
        return text
    try:
        return json.loads(text.lower() if types == {"boolean"} else text)
    except (ValueError, RecursionError):
        return text


def _types(schema: object) -> set[str]:
    """The JSON types that a schema allows, as far as it names them itself."""
    if not isinstance(schema, dict):
        return set()
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else set(filter(_is_text, named))
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= _types(member)
    return types


def _is_text(value: object) -> bool:
    return isinstance(value, str)
