"""Reads the form that a text must have from a body: OpenAI's field for it, and vLLM's.

Each is one grammar of the service, or refused by name. Knows neither models nor how a grammar is
compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from server.api.requests.validation import invalid
from server.link.sampling import Grammar, GrammarKind

# A body's field, with what it asks for; None where that is any text.
type _Asked = tuple[str, Grammar | None]

_STRUCTURED_OUTPUTS: Mapping[str, GrammarKind] = {
    "json": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "grammar": "lark",
    "structural_tag": "structural_tag",
}
_GUIDED: Mapping[str, GrammarKind] = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "lark",
}
# The fields of `response_format.json_schema`.
_OF_JSON_SCHEMA = ("name", "description", "schema", "strict")
# The kinds whose text may come as JSON in place of a text of JSON.
_JSON_KINDS = ("json_schema", "choice", "structural_tag")


def read_grammar(fields: Mapping[str, Any]) -> tuple[Grammar | None, str]:
    """The grammar of a body's fields and the name it was asked by. ApiError for two of them."""
    asked: list[_Asked] = []
    if (value := fields.get("response_format")) is not None:
        asked.append(_response_format(value))
    if (value := fields.get("structured_outputs")) is not None:
        asked += _structured_outputs(value)
    for name, kind in _GUIDED.items():
        if (value := fields.get(name)) is not None:
            asked.append((name, _grammar(kind, value, name)))
    limits = [(grammar, name) for name, grammar in asked if grammar is not None]
    if len(limits) > 1:
        (_, first), (_, second), *_ = limits
        raise invalid(f"{first} and {second} both limit the text; send one of them", second)
    return limits[0] if limits else (None, "")


def _response_format(value: Mapping[str, Any]) -> _Asked:
    kind = value.get("type")
    name = "response_format"
    readers: Mapping[Any, Callable[[], _Asked]] = {
        "text": lambda: _text(value),
        "json_object": lambda: _json_object(value),
        "json_schema": lambda: _json_schema(value),
        "structural_tag": lambda: (name, _grammar("structural_tag", dict(value), name)),
    }
    if not isinstance(kind, str) or kind not in readers:
        raise invalid(
            f"response_format.type is {_shown(kind)}; it must be one of {', '.join(readers)}", name
        )
    return readers[kind]()


def _text(value: Mapping[str, Any]) -> _Asked:
    for key, entry in value.items():
        if key != "type" and entry is not None:
            raise invalid(
                f"response_format.{key} is not supported next to the type text, which limits"
                " nothing; leave it out, or write another type",
                f"response_format.{key}",
                "unsupported_parameter",
            )
    return "response_format", None


def _json_object(value: Mapping[str, Any]) -> _Asked:
    """Some servers take a schema here too."""
    name = "response_format"
    _check_known(value, ("type", "schema"), name)
    if value.get("schema") is not None:
        name = "response_format.schema"
        return name, _grammar("json_schema", value["schema"], name)
    return name, Grammar("json_object", "")


def _json_schema(value: Mapping[str, Any]) -> _Asked:
    name = "response_format.json_schema"
    _check_known(value, ("type", "json_schema"), "response_format")
    inner = value.get("json_schema")
    if not isinstance(inner, Mapping):
        raise invalid(f"{name} must be an object with a schema", name)
    _check_known(inner, _OF_JSON_SCHEMA, name)
    for key, kind, words in (("name", str, "a string"), ("strict", bool, "true or false")):
        if not isinstance(inner.get(key), kind | None):
            raise invalid(f"{name}.{key} must be {words}", f"{name}.{key}")
    schema, name = inner.get("schema"), f"{name}.schema"
    if not isinstance(schema, Mapping):
        raise invalid(f"{name} must be an object, a JSON schema", name)
    return name, _grammar("json_schema", schema, name)


def _structured_outputs(value: Mapping[str, Any]) -> list[_Asked]:
    """Options of vLLM's that a request leaves off change nothing."""
    asked: list[_Asked] = []
    for key, entry in value.items():
        name = f"structured_outputs.{key}"
        if entry is None or entry is False:
            continue
        if key not in _STRUCTURED_OUTPUTS:
            raise invalid(
                f"{name} is not supported; structured_outputs takes one of"
                f" {', '.join(_STRUCTURED_OUTPUTS)}",
                name,
                "unsupported_parameter",
            )
        asked.append((name, _grammar(_STRUCTURED_OUTPUTS[key], entry, name)))
    return asked


def _check_known(value: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    for key, entry in value.items():
        if key in _OF_JSON_SCHEMA and key not in known and entry is not None:
            raise invalid(
                f"{name}.{key} is at the wrong place; write it as"
                f" response_format.json_schema.{key}, next to a type of json_schema",
                f"{name}.{key}",
            )
        if key not in known and entry is not None:
            raise invalid(
                f"{name}.{key} is not supported by this server; leave it out",
                f"{name}.{key}",
                "unsupported_parameter",
            )


def _grammar(kind: GrammarKind, value: Any, name: str) -> Grammar:
    if kind == "json_object":
        if value is not True:
            raise invalid(f"{name} must be true or false", name)
        return Grammar(kind, "")
    if isinstance(value, str) and kind != "choice":
        return Grammar(kind, value)
    if kind not in _JSON_KINDS:
        raise invalid(f"{name} must be a string", name)
    try:
        return Grammar(kind, msgspec.json.encode(value).decode())
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise invalid(f"{name} cannot be read: {error}", name) from None


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]
