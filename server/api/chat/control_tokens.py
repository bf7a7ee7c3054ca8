"""Keeps control tokens in a client's text plain text, through template and tokenizer.

A mark goes into each control token of the client's strings before the template renders them. The
rendered text is cut at the marks, and its pieces are tokenized apart, so no piece holds a whole
control token but those which the template wrote. Text without control tokens is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

# Code points that Unicode reserves for uses inside a program: no text is made of them.
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
# A search holds the interpreter's lock: this many characters take about a millisecond.
_CHUNK_CHARS = 1 << 16
_PREFIX_CHARS = 2


class PiecedText(str):
    """A text whose `pieces` are tokenized apart."""

    pieces: tuple[str, ...]

    def __new__(cls, pieces: Iterable[str]) -> PiecedText:
        kept = tuple(pieces)
        text = super().__new__(cls, "".join(kept))
        text.pieces = kept
        return text


class ControlTokens:
    """The control tokens of one tokenizer, and the marking of texts that hold them."""

    def __init__(self, tokens: Collection[str]) -> None:
        # A token of one character cannot be cut.
        tokens = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
        self._prefixes = {token[:_PREFIX_CHARS] for token in tokens}
        self._longest = max(map(len, tokens), default=0)
        # The lookahead finds tokens that overlap, too.
        self._each = re.compile(f"(?={'|'.join(map(re.escape, tokens)) or '(?!)'})")
        cuts = [(token, end) for token in tokens for end in range(1, len(token))]
        self._beginnings = tuple({token[:end] for token, end in cuts})
        self._endings = tuple({token[end:] for token, end in cuts})

    def occur_in(self, value: Any) -> bool:
        """Whether any string in `value` holds a control token, or two strings may join to one."""
        return any(next(self._places(text), -1) >= 0 for text in _strings(value)) or (
            any(text.endswith(self._beginnings) for text in _strings(value))
            and any(text.startswith(self._endings) for text in _strings(value))
        )

    def mark(self, value: Any, mark: str) -> Any:
        """`value` with the mark in each control token, and behind what may become one."""
        if isinstance(value, str):
            return self._marked(value, mark)
        if isinstance(value, Mapping):
            return {self.mark(k, mark): self.mark(item, mark) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item, mark) for item in value]
        return value

    def _marked(self, text: str, mark: str) -> str:
        cuts = [0, *(place + 1 for place in self._places(text)), len(text)]
        marked = mark.join(text[start:end] for start, end in pairwise(cuts))
        return marked + mark if text.endswith(self._beginnings) else marked

    def _places(self, text: str) -> Iterator[int]:
        """Where control tokens begin. Other threads run in between, however long the text is."""
        if not any(prefix in text for prefix in self._prefixes):
            return
        for start in range(0, len(text), _CHUNK_CHARS):
            end = start + _CHUNK_CHARS
            for match in self._each.finditer(text, start, end + self._longest):
                if match.start() < end:
                    yield match.start()


def unused_mark(value: Any) -> str | None:
    """A character that no string in `value` holds; None if all are in use."""
    used = {mark for text in _strings(value) for mark in _NONCHARACTERS if mark in text}
    return next((mark for mark in _NONCHARACTERS if mark not in used), None)


def cut(rendered: str, mark: str) -> PiecedText:
    """The rendered text in pieces. A template may have written the mark as a JSON escape."""
    escaped = f"\\u{ord(mark):04x}"
    pieces = re.split(f"{mark}|{re.escape(escaped)}", rendered)
    return PiecedText(filter(None, pieces))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
