"""Reads the fields that a body does not have: renames aliases, refuses what would be ignored.

A field that is in no table passes, because client libraries add new ones. Knows the tables, but no
endpoint and no transport: each endpoint brings its own fields, and refusals that come first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.api.foreign_fields.meanings import Alias, Meaning
from server.api.foreign_fields.table import FIELDS
from server.api.requests.refused_fields import Refusal, equal, unsupported
from server.api.requests.validation import invalid

_BY = "this server"
_CHAT = "/v1/chat/completions"
# As False, 0 and empty values do: a tool_choice without tools.
_ASKING_FOR_NOTHING = ("none", "auto")
# Advice that begins so names fields of a chat's body.
_NAMES_FIELDS = ("use ", "send ", "write ")


def _plain(name: str) -> str:
    """A name without case and separators: maxTokens and max-tokens are max_tokens misspelled."""
    return name.replace("_", "").replace("-", "").lower()


_USUAL_SPELLING = {_plain(name): name for name in FIELDS}


def with_own_names(body: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The body with the names in `own` next to their aliases. ApiError for two different values."""
    renamed = dict(body)
    for name in body.keys() - own:
        meaning = FIELDS.get(name)
        if isinstance(meaning, Alias) and meaning.field in own:
            value = body[name]
            if value is not None:
                _set(renamed, name, meaning.field, value)
    return renamed


def asked_names(extra: Collection[str], own: Collection[str]) -> dict[str, str]:
    """By a field of `own`, the alias by which a body has it."""
    meanings = {name: FIELDS.get(name) for name in extra}
    return {
        meaning.field: name
        for name, meaning in meanings.items()
        if isinstance(meaning, Alias) and meaning.field in own
    }


def _set(body: dict[str, Any], alias: str, field: str, value: Any) -> None:
    given = body.get(field)
    if given is not None and not equal(given, value):
        raise invalid(f"{alias} is another name of {field}; send one of the two", alias)
    body[field] = value


def check_foreign(
    extra: Mapping[str, Any],
    body: Mapping[str, Any],
    others: Collection[str] = (),
    foreign: Mapping[str, Meaning] = FIELDS,
) -> None:
    """Refuse every field of `extra` that would be ignored to the client's surprise.

    `body` has the endpoint's own fields and their values. `others` are the fields that only other
    endpoints have. A field in another spelling, such as maxTokens, is refused too. `foreign` are
    the fields of other servers that concern the endpoint.
    """
    endpoint = _Endpoint(_BY, body, foreign, {})
    for name, value in extra.items():
        endpoint.check(name, value)
    read = asked_names(extra, body).values()
    for name, value in extra.items():
        if name in others and name not in read and value and value not in _ASKING_FOR_NOTHING:
            raise unsupported(name, _BY, "this endpoint does not have it")


def check_foreign_at(
    path: str,
    extra: Mapping[str, Any],
    own: Collection[str],
    table: Mapping[str, Refusal],
    foreign: Mapping[str, Meaning] = FIELDS,
) -> None:
    """As `check_foreign`, for an endpoint whose fields are not those of a chat's body.

    `table` has the endpoint's own refusals, which come first. `path` is what the client called.
    """
    endpoint = _Endpoint(path, dict.fromkeys(own), foreign, table)
    for name, value in extra.items():
        endpoint.check(name, value)


class _Endpoint:
    """What an endpoint says to a field that it does not have. `own` has values, None if unknown."""

    def __init__(
        self,
        by: str,
        own: Mapping[str, Any],
        foreign: Mapping[str, Meaning],
        table: Mapping[str, Refusal],
    ) -> None:
        self._by = by
        self._own = own
        self._foreign = foreign
        self._table = table
        self._spelled = {_plain(name): name for name in own}

    def check(self, name: str, value: Any) -> None:
        if value is None or name in self._own:
            return
        meaning = self._table.get(name) or self._foreign.get(name)
        if meaning is None and (meant := self._spelled.get(_plain(name))):
            raise unsupported(name, self._by, f"write {meant}")
        match meaning or self._foreign.get(_USUAL_SPELLING.get(_plain(name), "")):
            case Refusal() as refusal if not refusal.passes(value, self._own):
                is_its_own = self._by == _BY or name in self._table
                raise unsupported(
                    name, self._by, refusal.instead if is_its_own else _at_chat(refusal.instead)
                )
            case Alias(field):
                self._check_alias(name, value, field)

    def _check_alias(self, name: str, value: Any, field: str) -> None:
        """Another name of a chat's field, which the endpoint may have, or refuse itself."""
        if field in self._own and self._by == _BY and name in FIELDS:
            return  # It has been read.
        if field in self._own:
            raise unsupported(name, self._by, f"write {field}")
        refusal = self._table.get(field, Refusal(f"{_CHAT} has it"))
        if not refusal.passes(value, self._own):
            raise unsupported(name, self._by, refusal.instead)


def _at_chat(instead: str) -> str:
    return f"in {_CHAT}, {instead}" if instead.startswith(_NAMES_FIELDS) else instead
