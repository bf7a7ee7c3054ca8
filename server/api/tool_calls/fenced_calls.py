"""Reads calls that come as a whole: a Python list at the start, or a fenced block (Gemma 3).

A block is passed on when it is complete, because Python can be read only as a whole. A block that
names no tool is content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from server.api.tool_calls.call_log import CallLog, call_id
from server.api.tool_calls.events import ContentEvent
from server.api.tool_calls.marked_calls import overlap
from server.api.tool_calls.python_calls import (
    BracketCounter,
    Call,
    NotACallError,
    may_begin_calls,
    read_python_calls,
)

_SPACE = " \t\n\r"
_FENCE = "```"
_FENCED = ("```tool_code", "```tool_call", "```json", "```python")


class FencedCalls:
    """A reader of calls that may only name one of `names`. `fenced` looks for blocks too."""

    def __init__(self, names: Collection[str], *, fenced: bool) -> None:
        self._names = names
        self._fenced = fenced
        self._log = CallLog(call_id)
        self._held = ""
        self._num_scanned = 0
        self._brackets = BracketCounter()
        self._state: Callable[[], bool] = self._at_start

    def feed(self, text: str) -> list[ContentEvent]:
        self._held += text
        while self._state():
            pass
        return self._log.take()

    def finish(self) -> list[ContentEvent]:
        if self._state == self._in_fence and self._try_block(self._held):
            self._held = ""
        self._log.content(self._held)
        self._log.finish()
        self._held = ""
        return self._log.take()

    def _at_start(self) -> bool:
        rest = self._held.lstrip(_SPACE)
        if not rest:
            return False
        self._state = self._in_list if rest[0] == "[" else self._in_content
        return True

    def _in_list(self) -> bool:
        lead = len(self._held) - len(self._held.lstrip(_SPACE))
        if not may_begin_calls(self._held[lead:]):
            self._state = self._in_content
            return True
        end = self._brackets.end(self._held[self._num_scanned :])
        if end < 0:
            self._num_scanned = len(self._held)
            return False
        end += self._num_scanned
        if self._try_calls(self._held[:end], read_python_calls):
            self._held = self._held[end:]
        self._state = self._in_content
        return True

    def _in_content(self) -> bool:
        if not self._fenced:
            return self._release(len(self._held))
        found = [(at, fence) for fence in _FENCED if (at := self._held.find(fence)) >= 0]
        if not found:
            return self._release(len(self._held) - max(overlap(self._held, f) for f in _FENCED))
        start, _ = min(found)
        self._release(start)
        self._state, self._num_scanned = self._in_fence, 0
        return True

    def _release(self, length: int) -> bool:
        self._log.content(self._held[:length])
        self._held = self._held[length:]
        return False

    def _in_fence(self) -> bool:
        """`_held` begins with a fence. Look for the fence that closes the block."""
        end = self._held.find(_FENCE, max(len(_FENCE), self._num_scanned - len(_FENCE)))
        if end < 0:
            self._num_scanned = len(self._held)
            return False
        end += len(_FENCE)
        if self._try_block(self._held[:end]):
            self._held = self._held[end:]
        else:
            self._release(end)
        self._state = self._in_content
        return True

    def _try_block(self, block: str) -> bool:
        opening = next(fence for fence in _FENCED if block.startswith(fence))
        inside = block.removeprefix(opening).removesuffix(_FENCE)
        return self._try_calls(inside, _read_json_calls) or self._try_calls(
            inside, read_python_calls
        )

    def _try_calls(self, text: str, read: Callable[[str], list[Call]]) -> bool:
        """Log the calls of `text`. False, and nothing logged, if it has none or other names."""
        try:
            calls = read(text)
        except NotACallError:
            return False
        if not calls or any(name not in self._names for name, _ in calls):
            return False
        for name, arguments in calls:
            self._log.start(name)
            self._log.arguments(arguments)
            self._log.end()
        return True


def _read_json_calls(text: str) -> list[Call]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotACallError(str(error)) from error
    return [_json_call(entry) for entry in (read if isinstance(read, list) else [read])]


def _json_call(entry: object) -> Call:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise NotACallError("no object with a name")
    arguments = entry.get("arguments", entry.get("parameters", {}))
    if not isinstance(arguments, dict):
        raise NotACallError("the arguments are no object")
    return entry["name"], json.dumps(arguments, ensure_ascii=False)
