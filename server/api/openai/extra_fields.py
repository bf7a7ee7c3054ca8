"""Reads the fields that a body does not have: renames aliases, refuses what would be ignored.

A field that is in no table passes, because client libraries add new ones. Knows the table of
`foreign_fields`, but no endpoint and no transport.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.api.openai.foreign_fields import FIELDS, Alias, Refused
from server.api.validation import invalid
from server.errors import ApiError

_MAX_NAME_CHARS = 64
# As False, 0 and empty values do: a tool_choice without tools.
_ASKING_FOR_NOTHING = ("none", "auto")


def with_own_names(body: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The body with aliases replaced by the names in `own`. ApiError for two different values."""
    renamed = dict(body)
    for name in body.keys() - own:
        meaning = FIELDS.get(name)
        if isinstance(meaning, Alias) and meaning.field in own:
            value = renamed.pop(name)
            if value is not None:
                _set(renamed, name, meaning.field, value)
    return renamed


def _set(body: dict[str, Any], alias: str, field: str, value: Any) -> None:
    given = body.get(field)
    if given is not None and not _equal(given, value):
        raise invalid(f"{alias} is another name of {field}; send one of the two", alias)
    body[field] = value


def check_foreign(
    extra: Mapping[str, Any], body: Mapping[str, Any], own: Collection[str], others: Collection[str]
) -> None:
    """Refuse every field of `extra` that would be ignored to the client's surprise.

    `body` has the values of the endpoint's fields, which are `own`. `others` are the fields that
    only other endpoints have. A field of `own` in another spelling, such as maxTokens, is refused.
    """
    given = {name: value for name, value in extra.items() if value is not None}
    for name, value in given.items():
        meaning = FIELDS.get(name)
        if isinstance(meaning, Refused) and not _is_neutral(meaning, value, body):
            raise _unsupported(name, meaning.instead)
    spelled = {_plain(name): name for name in own}
    for name, value in given.items():
        if name in others and value and value not in _ASKING_FOR_NOTHING:
            raise _unsupported(name, "this endpoint does not have it")
        if name not in FIELDS and (meant := spelled.get(_plain(name))):
            raise _unsupported(name, f"write {meant}")


def _is_neutral(meaning: Refused, value: Any, body: Mapping[str, Any]) -> bool:
    if meaning.as_field and _equal(body.get(meaning.as_field), value):
        return True
    return any(_equal(neutral, value) for neutral in meaning.neutral)


def _equal(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _plain(name: str) -> str:
    """A name without case and separators: maxTokens and max-tokens are max_tokens misspelled."""
    return name.replace("_", "").replace("-", "").lower()


def _unsupported(name: str, instead: str) -> ApiError:
    shown = name[:_MAX_NAME_CHARS]
    message = f"{shown} is not supported by this server; {instead}"
    return invalid(message, shown, "unsupported_parameter")
