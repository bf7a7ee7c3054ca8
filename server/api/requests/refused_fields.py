"""Tables of fields that would change an answer, but that a protocol here cannot honour.

A field that is in no table passes, because client libraries add new ones. Knows no protocol: each
brings its own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api.requests.validation import invalid
from server.errors import ApiError

_MAX_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to do instead, and the values that change nothing.

    `as_field` names a field of the body whose value changes nothing either, such as `best_of` equal
    to `n`.
    """

    instead: str
    neutral: tuple[Any, ...] = ()
    as_field: str = ""

    def passes(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether the value changes nothing; `body` has the values of the endpoint's own fields."""
        if self.as_field and equal(body.get(self.as_field), value):
            return True
        return any(equal(neutral, value) for neutral in self.neutral)


def refused(names: str, instead: str, *neutral: Any, as_field: str = "") -> dict[str, Refusal]:
    """The same refusal for several fields, whose names blanks part."""
    return dict.fromkeys(names.split(), Refusal(instead, neutral, as_field))


def check_fields(extra: Mapping[str, Any], table: Mapping[str, Refusal], path: str) -> None:
    """Refuse what would be ignored to the client's surprise. `path` is what the client called."""
    for name, value in extra.items():
        refusal = table.get(name)
        if refusal and value is not None and not refusal.passes(value, {}):
            raise unsupported(name, path, refusal.instead)


def unsupported(name: str, by: str, instead: str) -> ApiError:
    """The refusal of a field, whatever the client named it."""
    shown = name[:_MAX_NAME_CHARS]
    message = f"{shown} is not supported by {by}; {instead}"
    return invalid(message, shown, "unsupported_parameter")


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
