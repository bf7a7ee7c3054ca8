"""JSON of a client inside of JSON, or that is written again: in a prompt, a grammar, an answer.

What is read here can be written as JSON again, and nothing of it is lost. Knows no fields.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from server.api.requests.validation import invalid
from server.errors import ApiError
from server.link.sampling import Grammar

_MAX_SHOWN_CHARS = 80


def read_object(text: str, where: str) -> dict[str, Any]:
    """The object of a JSON text. ApiError for another text, NaN, and keys that stand twice."""
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        value = None
    except ValueError as error:
        # Only the errors from here are about JSON that could be read.
        reason = f" ({error})" if isinstance(error, _LossError) else ""
        raise _no_object(text, where, reason) from None
    if not isinstance(value, dict):
        raise _no_object(text, where)
    return value


class _LossError(ValueError):
    """Python reads it, but it is no JSON or loses a value."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _LossError(f"it has the key {twice[:40]!r} twice")
    return found


def _no_number(word: str) -> Any:
    raise _LossError(f"{word} is no JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise _LossError(f"{text[:40]} is too large")
    return number


def _no_object(text: str, where: str, reason: str = "") -> ApiError:
    shown = text[:_MAX_SHOWN_CHARS]
    return invalid(f"{where} is {shown!r}{reason}; give the JSON of an object", where)


def schema_grammar(schema: Mapping[str, Any], where: str) -> Grammar:
    """ApiError that names `where` for a schema that cannot be written again as JSON."""
    return Grammar("json_schema", written_again(schema, where).decode())


def written_again(value: Any, where: str) -> bytes:
    """What a client sent, as JSON again. ApiError for what Python reads, but JSON cannot hold."""
    try:
        return msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise invalid(f"{where} cannot be read: {error}", where) from None
