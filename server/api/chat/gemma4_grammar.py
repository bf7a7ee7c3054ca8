"""A JSON schema as rules of Lark for arguments in Gemma 4's form, `{city:<|"|>Oslo<|"|>,days:2}`.

Keys come in the order in which Gemma 4's template writes them. What is allowed may be less than the
schema allows, never more: no further keys stand next to declared ones. `format` is no constraint.
Knows neither a model's tokens nor what stands around the arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.tool_calls.gemma4_object import QUOTE
from server.errors import ApiError, ErrorKind

_MAX_DEPTH = 64
_ANY = r"(.|\n)*"
_BARE_KEY = re.compile(r'[^\s:,{}\[\]<"]+')
_KEY = r"/[A-Za-z0-9_.$\-]{1,100}/"
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
_SCALARS = ("number", "integer", "boolean", "null")
# What a regular expression of a grammar cannot have.
_PLACES = re.compile(r"\(\?(?!:)|\\[bB1-9kc]|(?<![\\\[])\^|(?<!\\)\$")
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_SAID = {
    *("type", "enum", "const", "anyOf", "$ref", "properties", "required", "additionalProperties"),
    *("items", "minItems", "maxItems", "minLength", "maxLength", "pattern", *_NUMERIC),
}
_NO_CONSTRAINTS = {
    *("title", "description", "default", "examples", "example", "$comment", "deprecated"),
    *("readOnly", "writeOnly", "$schema", "$id", "$defs", "definitions", "format", "x-guidance"),
}


@dataclass(slots=True)
class Gemma4Rules:
    """The rules of one tool's arguments, whose names begin with `prefix`.

    `quote` is the quote of strings as the grammar names it, and `is_token` whether it is a token of
    its own, which no text holds. `strict` refuses what no rule can say, which is else left out.
    """

    tool: str
    root: Mapping[str, Any]
    prefix: str
    quote: str
    is_token: bool
    strict: bool
    lines: list[str] = field(default_factory=list)
    _named: dict[str, str] = field(default_factory=dict)
    _depth: int = 0

    def arguments(self) -> str:
        """The body of a rule for the whole object. ApiError for a schema that no rule can say."""
        return self._value(self.root)

    def _value(self, schema: Any) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._refused("is nested too deeply")
        try:
            return self._alternatives(schema)
        finally:
            self._depth -= 1

    def _alternatives(self, schema: Any) -> str:
        if not isinstance(schema, dict):
            return self._anything() if schema is True else self._left_out("allows no value")
        if self.strict and (unsaid := schema.keys() - _SAID - _NO_CONSTRAINTS):
            raise self._refused(f"has {min(unsaid)!r}")
        if isinstance(schema.get("$ref"), str):
            self._check_alone("$ref", schema)
            return self._reference(schema["$ref"])
        if "const" in schema:
            return self._literal(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return _any_of([self._literal(value) for value in schema["enum"]])
        for several in ("anyOf",) if self.strict else ("anyOf", "oneOf"):
            if isinstance(schema.get(several), list) and schema[several]:
                self._check_alone(several, schema)
                return _any_of([self._value(option) for option in schema[several]])
        named = schema.get("type", _implied_type(schema))
        kinds = [named] if isinstance(named, str) else named
        if not isinstance(kinds, list) or any(kind not in _TYPES for kind in kinds):
            return self._left_out(f"has the type {named!r:.80}")
        return _any_of([self._of_type(kind, schema) for kind in kinds]) or self._anything()

    def _check_alone(self, key: str, schema: Mapping[str, Any]) -> None:
        if self.strict and (beside := schema.keys() - {key, "type"} - _NO_CONSTRAINTS):
            raise self._refused(f"has {min(beside)!r} beside {key!r}")

    def _reference(self, reference: str) -> str:
        """A rule of its own, because a schema may refer to itself."""
        target = self._target(reference)
        if target is None:
            return self._left_out(f"has the reference {reference!r:.80}, which leads nowhere")
        if reference not in self._named:
            name = self._named[reference] = f"{self.prefix}_{len(self._named)}"
            self.lines.append(f"{name}: {self._value(target)}")
        return self._named[reference]

    def _target(self, reference: str) -> Any:
        target: Any = self.root
        path = [] if reference == "#" else reference.removeprefix("#/").split("/")
        for part in path:
            key = part.replace("~1", "/").replace("~0", "~")
            if not reference.startswith("#") or not isinstance(target, dict) or key not in target:
                return None
            target = target[key]
        return target

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str:
        match kind:
            case "string":
                return self._string(schema)
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
        numeric = {key: schema[key] for key in _NUMERIC if key in schema}
        style = {} if self.strict else {"x-guidance": {"lenient": True}}
        return f"%json {json.dumps(style | {'type': kind} | numeric)}"

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = _count(schema, "minLength", 0), _count(schema, "maxLength", None)
        has_length = least or most is not None
        if isinstance(pattern := schema.get("pattern"), str):
            whole = _whole(pattern)
            if whole is not None and not has_length:
                return self._quoted(whole)
            if self.strict:
                raise self._refused(f"has the pattern {pattern!r:.80}, alone or beside a length")
        if not has_length:
            return self._quoted(_ANY)
        return self._quoted(rf"(.|\n){{{least},{'' if most is None else most}}}")

    def _quoted(self, regex: str) -> str:
        """A string whose text matches. Without a token for it, the first quote is its end."""
        if self.is_token:
            return f"{self.quote} /{regex}/ {self.quote}"
        end = "".join(f"\\x{ord(character):02x}" for character in QUOTE)
        name = self._named.setdefault(f"/{regex}", f"{self.prefix}_{len(self._named)}")
        if (line := f"{name}[lazy]: /{regex}{end}/") not in self.lines:
            self.lines.append(line)
        return f"{self.quote} {name}"

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self._value(schema.get("items", True))
        least, most = _count(schema, "minItems", 0), _count(schema, "maxItems", None)
        if most == 0:
            return '"[" "]"'
        more = f'("," ({item})){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        return f'"[" (({item}) {more}){"" if least else "?"} "]"'

    def _object(self, schema: Mapping[str, Any]) -> str:
        declared: dict[str, Any] = dict(_mapping(schema.get("properties")))
        others = schema.get("additionalProperties", True)
        required = {key for key in _sequence(schema.get("required")) if isinstance(key, str)}
        declared |= dict.fromkeys(sorted(required - declared.keys()), others)
        if declared:
            return f'"{{" {self._members(declared, required)} "}}"'
        if others is False:
            return '"{" "}"'
        pair = f'{_KEY} ":" ({self._value(others)})'
        return f'"{{" ({pair} ("," {pair})*)? "}}"'

    def _members(self, declared: Mapping[str, Any], required: set[str]) -> str:
        """The members in their order: from each, what may follow a first one, and what an empty."""
        first, rest = "", ""
        for key in sorted(declared, key=str.lower, reverse=True):
            pair = f'{self._key(key)} ":" ({self._value(declared[key])})'
            is_optional = key not in required
            options = [f"{pair} {rest}", first] if is_optional else [f"{pair} {rest}"]
            first = self._rule(_any_of(options) if first or not is_optional else f"({options[0]})?")
            rest = self._rule(
                f'("," {pair} {rest})' if not is_optional else f'("," {pair})? {rest}'
            )
        return first

    def _rule(self, body: str) -> str:
        name = f"{self.prefix}_{len(self._named)}"
        self._named[name] = name
        self.lines.append(f"{name}: {body}")
        return name

    def _key(self, key: str) -> str:
        return json.dumps(key) if _BARE_KEY.fullmatch(key) else self._literal(key)

    def _literal(self, value: Any) -> str:
        match value:
            case str():
                if QUOTE in value:
                    raise self._refused(f"has a value with {QUOTE}")
                return f"{self.quote} {json.dumps(value) if value else ''} {self.quote}"
            case dict():
                keys = sorted(value, key=str.lower)
                pairs = [f'{self._key(key)} ":" {self._literal(value[key])}' for key in keys]
                return f'"{{" {_separated(pairs)} "}}"'
            case list():
                return f'"[" {_separated([self._literal(item) for item in value])} "]"'
        return json.dumps(json.dumps(value))

    def _anything(self) -> str:
        if "any" not in self._named:
            name = self._named["any"] = f"{self.prefix}_any"
            scalars = f"%json {json.dumps({'type': ['number', 'boolean', 'null']})}"
            pair = f'{_KEY} ":" {name}'
            nested = f'"[" ({name} ("," {name})*)? "]" | "{{" ({pair} ("," {pair})*)? "}}"'
            self.lines.append(f"{name}: {self._quoted(_ANY)} | {scalars} | {nested}")
        return self._named["any"]

    def _left_out(self, problem: str) -> str:
        """The body for what no rule can say: any value, unless the tool is strict."""
        if self.strict:
            raise self._refused(problem)
        return self._anything()

    def _refused(self, problem: str) -> ApiError:
        message = (
            f"the schema of the tool {self.tool!r} {problem}, which cannot be enforced in the form"
            " in which this model writes calls; leave it out, or do not enforce the tool's schema"
        )
        return ApiError(ErrorKind.INVALID_REQUEST, message, param="tools")


def _any_of(options: Sequence[str]) -> str:
    options = [option for option in options if option]
    return options[0] if len(options) == 1 else " | ".join(f"({option})" for option in options)


def _separated(terms: Sequence[str]) -> str:
    return ' "," '.join(terms)


def _implied_type(schema: Mapping[str, Any]) -> list[str]:
    return ["object"] if "properties" in schema else []


def _whole(pattern: str) -> str | None:
    """A regular expression for all of a text of which some part matches the pattern.

    None for a pattern that looks around, refers back, or names a place within the text.
    """
    starts, ends = pattern.startswith("^"), bool(re.search(r"(?<!\\)\$$", pattern))
    inner = pattern[1 if starts else 0 : -1 if ends else None]
    if _PLACES.search(inner):
        return None
    inner = re.sub(r"(?s)\\.|/|\n", _in_regex, inner)
    return f"{'' if starts else _ANY}({inner}){'' if ends else _ANY}"


def _in_regex(found: re.Match[str]) -> str:
    return {"/": r"\x2f", r"\/": r"\x2f", "\n": r"\n"}.get(found[0], found[0])


def _count(schema: Mapping[str, Any], key: str, default: Any) -> Any:
    value = schema.get(key)
    return value if isinstance(value, int) and value >= 0 else default


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
