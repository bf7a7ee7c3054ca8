"""Reads calls that are written as Python: `[f(a=1), g(b="x")]`.

Only literals are read, and nothing is run. A list is read when its last bracket has come. Knows
nothing of what stands around the list.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

_BEGINS = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
_BEGINNING = re.compile(r"\[\s*([A-Za-z_][\w.]*\s*)?")
_MAX_BEGINNING = 160
_JSON_NAMES = {"true": True, "false": False, "null": None}

type Call = tuple[str, str]


class NotACallError(ValueError):
    """The text is Python, or not even Python, but no list of calls with literal arguments."""


def read_python_calls(text: str) -> list[Call]:
    """The names of the calls and their arguments as JSON. Raises NotACallError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            body = ast.parse(text.strip(), mode="eval").body
        calls = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
        return [_call(node) for node in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotACallError(str(error)) from error


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or not all(k.arg for k in node.keywords):
        raise NotACallError("not a call with named arguments")
    arguments = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    return ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {str(ast.literal_eval(key)): _value(value) for key, value in pairs if key}
        case _:
            value = ast.literal_eval(node)
            json.dumps(value) if not isinstance(value, bytes | complex | set) else _refuse(value)
            return value


def _refuse(value: object) -> None:
    raise NotACallError(f"{type(value).__name__} has no JSON form")


class BracketCounter:
    """Finds the bracket that closes the one at the start of a text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._is_escaped = False

    def end(self, text: str) -> int:
        """The position after the closing bracket in this piece, or -1."""
        for position, character in enumerate(text):
            if self._quote:
                self._in_string(character)
            elif character in "'\"":
                self._quote = character
            elif character in "[({":
                self._depth += 1
            elif character in "])}":
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        return -1

    def _in_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == self._quote:
            self._quote = ""


def may_begin_calls(text: str) -> bool:
    """Whether a text that begins with a bracket may still become a list of calls."""
    if _BEGINS.match(text):
        return True
    return len(text) < _MAX_BEGINNING and _BEGINNING.fullmatch(text) is not None
