"""A grammar that cannot be compiled, in words for whoever wrote it.

Some of the compiler's own reasons are about its insides; they are said again here. Knows neither
the compiler nor who asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# What the compiler says, and what whoever wrote the grammar can do about it.
_SAID_AGAIN: Mapping[str, str] = {
    # Lines of the grammar follow, which may be the server's own.
    r"at \d+\(\d+\): failed to compile JSON schema: (.*?)(\n *\d+ \| .*)?$": r"\1",
    r"NoExtensionBias": "a part of it refers to itself, with nothing in between",
    r"Resource '([^']*)' is not present in a registry.*": (
        r"it refers to \1, another document; write what it refers to into $defs"
    ),
    r"Failed to generate regex for (integer|float) range.*": (
        "the bounds of a number are too far from 0, or allow no number; change minimum and maximum"
    ),
    r"Current row has (\d+) items; max is \d+.*": (
        "too many things may follow at one place; allow fewer options or optional properties there"
    ),
    r"lexer error: too many states: (\d+) .*": (
        r"it is too complex: its names and patterns need more than \1 states; split it"
    ),
    r"grammar size \(number of symbols\) too big \(limit for this grammar: (\d+)\).*": (
        r"it is too big: it has more than \1 symbols; split it"
    ),
}


# Every fault that shows in the engine begins so.
SUBJECT = "the grammar"


class GrammarError(ValueError):
    """A grammar that cannot be compiled; the message is for the client, about "it".

    `line` is where in a grammar of Lark the fault is, 0 where that is not known.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def line_of(reason: str) -> int:
    """The line of a grammar that the compiler's reason names; 0 if it names none."""
    found = re.match(r"at (\d+)\(\d+\): ", reason.strip())
    return int(found[1]) if found else 0


def said_plainly(reason: str) -> str:
    """The compiler's reason without its insides; the same where it is plain already."""
    text = reason.replace("<non-verbose/>", "").strip()
    for pattern, words in _SAID_AGAIN.items():
        if found := re.search(pattern, text, re.DOTALL):
            text = found.expand(words).strip()
    return text
