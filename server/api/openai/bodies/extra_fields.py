"""Reads the fields that a body does not have: renames aliases, refuses what would be ignored.

A field that is in no table passes, because client libraries add new ones. Knows the table of
`foreign_fields`, but no endpoint and no transport.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.api.openai.bodies.foreign_fields import FIELDS, Alias
from server.api.requests.refused_fields import Refusal, equal, unsupported
from server.api.requests.validation import invalid

_BY = "this server"
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
    if given is not None and not equal(given, value):
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
        if isinstance(meaning, Refusal) and not meaning.passes(value, body):
            raise unsupported(name, _BY, meaning.instead)
    spelled = {_plain(name): name for name in own}
    for name, value in given.items():
        if name in others and value and value not in _ASKING_FOR_NOTHING:
            raise unsupported(name, _BY, "this endpoint does not have it")
        if name not in FIELDS and (meant := spelled.get(_plain(name))):
            raise unsupported(name, _BY, f"write {meant}")


def _plain(name: str) -> str:
    """A name without case and separators: maxTokens and max-tokens are max_tokens misspelled."""
    return name.replace("_", "").replace("-", "").lower()
