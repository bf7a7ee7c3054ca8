"""JSON of a client that is written again: as a grammar, or in an answer that repeats it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.api.requests.validation import invalid
from server.link.sampling import Grammar


def schema_grammar(schema: Mapping[str, Any], where: str) -> Grammar:
    """ApiError that names `where` for a schema that cannot be written again as JSON."""
    return Grammar("json_schema", written_again(schema, where).decode())


def written_again(value: Any, where: str) -> bytes:
    """What a client sent, as JSON again. ApiError for what Python reads, but JSON cannot hold."""
    try:
        return msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise invalid(f"{where} cannot be read: {error}", where) from None
