"""Priorities of requests, as numbers and by the names of objectives. Below zero may be shed."""

from __future__ import annotations

# An InferenceObjective's priority is an int32.
MAX_PRIORITY = 2**31 - 1
_MAX_DIGITS = 10


def read_priorities(setting: str) -> dict[str, int]:
    """`interactive=10,batch=-1` as a mapping. ValueError with the part that is wrong."""
    named: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        name, _, number = part.partition("=")
        priority = read_priority(number)
        if not name or priority is None:
            raise ValueError(
                f"{part!r} is no objective; write NAME=PRIORITY, with a priority from"
                f" {-MAX_PRIORITY} to {MAX_PRIORITY}"
            )
        named[name] = priority
    return named


def read_priority(text: str) -> int | None:
    """A whole number within the bounds; None for anything else."""
    text = text.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS):
        return None
    number = int(text)
    return number if abs(number) <= MAX_PRIORITY else None
