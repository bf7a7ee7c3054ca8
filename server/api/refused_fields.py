"""Tables of fields that would change an answer, but that a protocol here cannot honour.

A field that is in no table passes, because client libraries add new ones. Knows no protocol: each
brings its own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api.validation import invalid


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to do instead, and the values that change nothing."""

    instead: str
    neutral: tuple[Any, ...] = ()


def refused(names: str, instead: str, *neutral: Any) -> dict[str, Refusal]:
    """The same refusal for several fields, whose names blanks part."""
    return dict.fromkeys(names.split(), Refusal(instead, neutral))


def check_fields(extra: Mapping[str, Any], table: Mapping[str, Refusal], path: str) -> None:
    """Refuse what would be ignored to the client's surprise. `path` is what the client called."""
    for name, value in extra.items():
        refusal = table.get(name)
        if refusal and value is not None and not _is_one_of(value, refusal.neutral):
            message = f"{name} is not supported by {path}; {refusal.instead}"
            raise invalid(message, name, "unsupported_parameter")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return any(isinstance(value, bool) == isinstance(n, bool) and value == n for n in neutral)
