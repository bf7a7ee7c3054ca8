"""Reads an object as Gemma 4 writes it, `{city:<|"|>Oslo<|"|>,days:2}`, and passes it on as JSON.

Keys are bare, and strings stand between quotes of their own with nothing escaped (Google, "Gemma 4
prompt formatting"). Keys and strings in JSON's quotes are read too, and a bare word is a string.
Knows nothing of calls.
"""

from __future__ import annotations

import json
import re

from server.api.tool_calls.json_text import JsonText, ValueReader

QUOTE = '<|"|>'
_MAX_DEPTH = 128
_MAX_BARE = 400
_SPACE = " \t\n\r"
_BARE = re.compile(r'[^,{}\[\]<"\n]*')
_BARE_KEY = re.compile(r'[^:,{}\[\]<"\n]*')
_UNQUOTED = re.compile(r"[^<]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}


class Gemma4Object(ValueReader):
    """One object, from its brace.

    `is_certain`: a first value has begun, or the object is whole, so that this is an object indeed.
    What of a broken one was no JSON yet is passed on.
    """

    def __init__(self) -> None:
        super().__init__("object")
        self.is_certain = False
        # Of a bare word, or of a quote that may be one.
        self._word = ""
        self._quote = ""
        self._string: JsonText | None = None

    def finish(self) -> str:
        """What was read of a word or string that broke off: no more text will come."""
        is_string = self._expects in ("string", "key string")
        return self._word + (_escaped(self._quote) if is_string else "")

    def _step(self, text: str, position: int) -> int:
        if self._string is not None:
            return self._in_json_string(text, position, self._string)
        if self._expects in ("string", "key string"):
            return self._in_string(text, position)
        if self._quote:
            return self._in_opening_quote(text[position], position)
        if self._expects in ("bare", "bare key"):
            return self._in_bare(text, position)
        character = text[position]
        if character in _SPACE or self._begins(character):
            # A bare word takes its own first character.
            return position + (self._expects not in ("bare", "bare key"))
        return self._break(position)

    def _begins(self, character: str) -> bool:
        """Take a character between words. False if none such may stand here."""
        expects = self._expects
        takes_value, takes_key = "value" in expects, "key" in expects
        if character == "{" and (expects == "object" or takes_value):
            self._nest(character, "key or end")
        elif character == "[" and takes_value:
            self._nest(character, "value or end")
        elif character in "}]" and self._may_close(character):
            self._open.pop()
            self.text += character
            self._end_value()
        elif character == ":" and expects == "colon":
            self.text, self._expects = self.text + ": ", "value"
        elif character == "," and expects == "comma or end":
            self.text += ", "
            self._expects = "key" if self._open[-1] == "{" else "value"
        elif character == "<" and (takes_value or takes_key):
            self._quote = character
        elif character == '"' and (takes_value or takes_key):
            self._string = JsonText()
            self._string.feed(character)
        elif character not in ":,{}[]<" and (takes_value or takes_key):
            self._expects = "bare key" if takes_key else "bare"
        else:
            return False
        self.is_certain = self.is_certain or (takes_value and not self._quote) or self.is_done
        return len(self._open) <= _MAX_DEPTH

    def _nest(self, bracket: str, expects: str) -> None:
        self._open.append(bracket)
        self.text, self._expects = self.text + bracket, expects

    def _may_close(self, character: str) -> bool:
        opening = "{" if character == "}" else "["
        return bool(self._open) and self._open[-1] == opening and self._expects.endswith("or end")

    def _end_value(self) -> None:
        self._expects = "comma or end"
        self.is_done = not self._open

    def _end_word(self, *, is_key: bool) -> None:
        if is_key:
            self._expects = "colon"
        else:
            self._end_value()

    def _in_opening_quote(self, character: str, position: int) -> int:
        self._quote += character
        if not QUOTE.startswith(self._quote):
            self._quote = self._quote[:-1]
            return self._break(position)
        if self._quote == QUOTE:
            self._quote, self.text = "", self.text + '"'
            is_key = "key" in self._expects
            self._expects = "key string" if is_key else "string"
            self.is_certain = self.is_certain or not is_key
        return position + 1

    def _in_string(self, text: str, position: int) -> int:
        if not self._quote and (plain := _UNQUOTED.match(text, position)):
            self.text += _escaped(plain[0])
            return plain.end()
        character = text[position]
        if QUOTE.startswith(self._quote + character):
            self._quote += character
        else:
            # What looked like the quote's beginning is text, and the quote may begin here.
            self.text, self._quote = self.text + _escaped(self._quote), ""
            return position
        if self._quote == QUOTE:
            self._quote, self.text = "", self.text + '"'
            self._end_word(is_key=self._expects == "key string")
        return position + 1

    def _in_json_string(self, text: str, position: int, string: JsonText) -> int:
        position = string.feed(text, position)
        self.text += string.take()
        self.is_broken = string.is_broken
        if string.is_done:
            self._string = None
            self._end_word(is_key="key" in self._expects)
        return position

    def _in_bare(self, text: str, position: int) -> int:
        is_key = self._expects == "bare key"
        found = (_BARE_KEY if is_key else _BARE).match(text, position)
        assert found is not None
        taken = found[0][: _MAX_BARE - len(self._word)]
        self._word += taken
        position += len(taken)
        if len(self._word) == _MAX_BARE:
            return self._break(position)
        if position < len(text):
            word, self._word = self._word.strip(), ""
            self.text += json.dumps(word, ensure_ascii=False) if is_key else _value(word)
            self._end_word(is_key=is_key)
        return position

    def _break(self, position: int) -> int:
        self.text += self._word + self._quote
        self._word, self._quote, self.is_broken = "", "", True
        return position


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _value(word: str) -> str:
    """A bare word as JSON: a number, a constant, or a string without its quotes."""
    if _NUMBER.fullmatch(word):
        return word
    return _WORDS.get(word.lower()) or json.dumps(word, ensure_ascii=False)
