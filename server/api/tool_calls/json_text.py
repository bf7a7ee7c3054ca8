"""Reads one JSON value from text that comes in pieces, wherever the pieces are cut.

The text is checked character by character, so that a value can be passed on before it is complete.
Knows nothing of calls.
"""

from __future__ import annotations

import re

_MAX_DEPTH = 128
_SPACE = " \t\n\r"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*")
_WHOLE_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_MAX_SCALAR = 400


class ValueReader:
    """One value, as a model writes it. `feed` takes what belongs to it and leaves the rest.

    `text` collects what was read, as JSON. A value that is `is_broken` cannot become JSON any more.
    """

    def __init__(self, expects: str) -> None:
        self.text = ""
        self.is_done = False
        self.is_broken = False
        self._open: list[str] = []
        self._expects = expects

    def feed(self, text: str, start: int = 0) -> int:
        """Read on from `start`. Returns the position of the first character that was not taken."""
        position = start
        while position < len(text) and not (self.is_done or self.is_broken):
            position = self._step(text, position)
        return position

    def take(self) -> str:
        """What was read since the last call."""
        text, self.text = self.text, ""
        return text

    def _step(self, text: str, position: int) -> int:
        """Read a part from `position`; the position after it."""
        raise NotImplementedError


class JsonText(ValueReader):
    """One JSON value.

    The control characters inside strings are escaped, because models write line breaks there and
    JSON forbids them.
    """

    def __init__(self) -> None:
        super().__init__("value")
        self._scalar = ""
        self._num_hex = 0

    def _step(self, text: str, position: int) -> int:
        match self._expects:
            case "string" | "key string":
                return self._in_string(text, position)
            case "escape" | "key escape":
                return self._in_escape(text[position], position)
            case "scalar":
                return self._in_scalar(text, position)
        character = text[position]
        if character not in _SPACE and not self._begins(character):
            self.is_broken = True
            return position
        if self._expects != "scalar":
            self.text += character
            position += 1
        return position

    def _begins(self, character: str) -> bool:
        """Take a character between values. False if none such may stand here."""
        expects = self._expects
        if character == '"' and expects in ("value", "value or end", "key", "key or end"):
            self._expects = "key string" if expects.startswith("key") else "string"
        elif character in "{[" and expects in ("value", "value or end"):
            self._open.append(character)
            self._expects = "key or end" if character == "{" else "value or end"
            return len(self._open) <= _MAX_DEPTH
        elif character in "}]" and self._may_close(character):
            self._open.pop()
            self._end_value()
        elif character == ":" and expects == "colon":
            self._expects = "value"
        elif character == "," and expects == "comma or end":
            self._expects = "key" if self._open[-1] == "{" else "value"
        elif expects in ("value", "value or end") and (character.isalnum() or character == "-"):
            self._expects = "scalar"
        else:
            return False
        return True

    def _may_close(self, character: str) -> bool:
        opening = "{" if character == "}" else "["
        return (
            bool(self._open)
            and self._open[-1] == opening
            and self._expects in ("comma or end", "key or end", "value or end")
        )

    def _end_value(self) -> None:
        self.is_done = not self._open
        self._expects = "comma or end"

    def _in_string(self, text: str, position: int) -> int:
        if match := _PLAIN.match(text, position):
            self.text += match[0]
            return match.end()
        character = text[position]
        is_key = self._expects == "key string"
        if character == '"':
            self._end_value()
            if is_key:
                self._expects, self.is_done = "colon", False
        elif character == "\\":
            self._expects, self._num_hex = ("key escape" if is_key else "escape"), 0
        else:
            character = f"\\u{ord(character):04x}"
        self.text += character
        return position + 1

    def _in_escape(self, character: str, position: int) -> int:
        if self._num_hex:
            self._num_hex -= 1
            is_allowed = character in "0123456789abcdefABCDEF"
        else:
            self._num_hex = 4 if character == "u" else 0
            is_allowed = character in '"\\/bfnrtu'
        if not is_allowed:
            self.is_broken = True
            return position
        if not self._num_hex:
            self._expects = "key string" if self._expects == "key escape" else "string"
        self.text += character
        return position + 1

    def _in_scalar(self, text: str, position: int) -> int:
        """Numbers and words end before the first character that cannot belong to them."""
        match = _SCALAR.match(text, position)
        found = match[0][: _MAX_SCALAR - len(self._scalar)] if match else ""
        self._scalar += found
        self.text += found
        position += len(found)
        if position < len(text) or len(self._scalar) == _MAX_SCALAR:
            is_whole = _WHOLE_SCALAR.fullmatch(self._scalar) is not None
            self.is_broken = not is_whole or len(self._scalar) == _MAX_SCALAR
            self._scalar = ""
            self._end_value()
        return position
