"""Makes a JSON schema ready for llguidance: refuses what it would misread, replaces formats.

A schema alone and the schemas within a grammar of Lark are read alike. What is no JSON stays as it
is, for the compiler to refuse. Pure text; knows neither vocabularies nor where a schema comes from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.grammar.formats import PATTERNS
from server.grammar.grammar_error import GrammarError

# An object's optional properties between two required ones: the masks' cost grows with them, to
# about 5 ms at this many, and MAX_ITEMS of the compiler must allow them.
MAX_OPTIONAL = 500
# What these hold is a value; what the others hold are schemas, by name.
_VALUES = ("const", "enum", "default", "examples")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def prepared(schema: str) -> str:
    """The text of a JSON schema, ready to compile. GrammarError for one that cannot be followed."""
    try:
        found = json.loads(schema)
        changed = _schema(found, "", has_ids='"$id"' in schema)
    except (RecursionError, json.JSONDecodeError):
        return schema
    return schema if changed == found else json.dumps(changed)


def prepared_in_lark(grammar: str) -> str:
    """A grammar of Lark, whose `%json` parts are schemas."""
    head, *parts = grammar.split("%json")
    done, line = [head], 1 + head.count("\n")
    for part in parts:
        done.append(_first_prepared(part, line))
        line += part.count("\n")
    return "%json".join(done)


def _first_prepared(text: str, line: int) -> str:
    """A text that begins with blanks and a schema, in this line of its grammar."""
    start = len(text) - len(text.lstrip())
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (RecursionError, json.JSONDecodeError):
        return text
    try:
        return text[:start] + prepared(text[start:end]) + text[end:]
    except GrammarError as error:
        raise GrammarError(str(error), line) from None


def _schema(schema: Any, path: str, *, has_ids: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    _check_reference(schema.get("$ref"), path, has_ids=has_ids)
    _check_optional(schema.get("properties"), schema.get("required"), path)
    changed = {
        key: _inner(key, value, f"{path}/{key}", has_ids=has_ids) for key, value in schema.items()
    }
    pattern = PATTERNS.get(name) if isinstance(name := changed.get("format"), str) else None
    if pattern is None:
        return changed
    del changed["format"]
    # The schema may have a pattern of its own, and others may refer to places in its allOf.
    also = changed.get("allOf", [])
    return changed | {"allOf": [*also, {"pattern": pattern}] if isinstance(also, list) else also}


def _inner(key: str, value: Any, path: str, *, has_ids: bool) -> Any:
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {
            name: _schema(each, f"{path}/{name}", has_ids=has_ids) for name, each in value.items()
        }
    if isinstance(value, list):
        return [_schema(each, f"{path}/{i}", has_ids=has_ids) for i, each in enumerate(value)]
    return _schema(value, path, has_ids=has_ids)


def _check_reference(reference: Any, path: str, *, has_ids: bool) -> None:
    """Of other documents, the compiler knows some of JSON Schema itself, which it cannot follow."""
    if isinstance(reference, str) and not reference.startswith("#") and not has_ids:
        raise GrammarError(
            f"{_place(path)} refers to {reference[:100]!r}, another document; write what it refers"
            " to into $defs"
        )


def _check_optional(properties: Any, required: Any, path: str) -> None:
    if not isinstance(properties, dict) or len(properties) <= MAX_OPTIONAL:
        return
    longest = _longest_run(list(properties), set(required) if isinstance(required, list) else set())
    if longest > MAX_OPTIONAL:
        raise GrammarError(
            f"{_place(path)} has {longest} optional properties one after another; at most"
            f" {MAX_OPTIONAL} can be followed, so require some of them"
        )


def _longest_run(names: Sequence[str], required: set[str]) -> int:
    longest = run = 0
    for name in names:
        run = 0 if name in required else run + 1
        longest = max(longest, run)
    return longest


def _place(path: str) -> str:
    return f"its part #{path[:200]}" if path else "it"
