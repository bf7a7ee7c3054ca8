"""Reads the options of a call: one type for each, so that both transports send the same value.

A value of another type is refused by the option's name. Ranges are the server's business. Knows
neither gRPC nor HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from antipode.errors import InvalidRequestError
from antipode.types import Options

_TOOL_FIELDS = {"name", "description", "parameters", "strict"}
_GRAMMARS = (
    "json_schema", "json_object", "regex", "choice", "lark", "structural_tag",
)  # fmt: skip


def read_options(options: Mapping[str, Any]) -> Options:
    """The options that are not None, each in its one type. InvalidRequestError for others."""
    if unknown := sorted(options.keys() - READERS.keys()):
        raise InvalidRequestError(
            f"there is no option {unknown[0]}; the options are {', '.join(sorted(READERS))}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    read: Any = {name: READERS[name](name, value) for name, value in given.items()}
    return read  # type: ignore[no-any-return]


def integer(name: str, value: Any) -> int:
    """A whole number, which a float may be too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(name, value, "a whole number")
    return value


def wrong(name: str, value: Any, wanted: str) -> InvalidRequestError:
    """The refusal of a value."""
    return InvalidRequestError(f"{name} is {value!r:.80}; it must be {wanted}")


def _count(name: str, value: Any) -> int:
    number = integer(name, value)
    if number < 0:
        raise wrong(name, value, "at least 0; leave it out for the server's default")
    return number


def _seed(name: str, value: Any) -> int:
    """As 64 unsigned bits, which is how the server reports it."""
    number = integer(name, value)
    if not -(2**63) <= number < 2**64:
        raise wrong(name, value, "a number of 64 bits")
    return number % 2**64


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong(name, value, "a number")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, value, "True or False")
    return value


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise wrong(name, value, "a list of texts")
    return list(value)


def _stop(name: str, value: Any) -> list[str]:
    return [value] if isinstance(value, str) else _texts(name, value)


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise wrong(name, value, "a list of token ids")
    return [_count(name, each) for each in value]


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    """Keys may be the texts that JSON makes of token ids."""
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping of token ids to numbers")
    return {
        _count(name, int(key) if isinstance(key, str) and key.isdecimal() else key): _number(
            name, bias
        )
        for key, bias in value.items()
    }


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong(name, value, "a mapping with names")
    return value


def _grammar(name: str, value: Any) -> dict[str, Any]:
    kinds = list(_mapping(name, value))
    if len(kinds) != 1 or kinds[0] not in _GRAMMARS:
        raise InvalidRequestError(
            f"grammar must have exactly one of {', '.join(_GRAMMARS)}, not {kinds}"
        )
    kind, form = kinds[0], value[kinds[0]]
    place = f"{name}.{kind}"
    match kind:
        case "json_object":
            return {kind: _flag(place, form)}
        case "choice":
            return {kind: _texts(place, form)}
        case "json_schema" | "structural_tag" if not isinstance(form, str):
            return {kind: _mapping(place, form)}
    if not isinstance(form, str):
        raise wrong(place, form, "a text")
    return {kind: form}


def _tools(name: str, value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple):
        raise wrong(name, value, "a list of tools")
    for tool in value:
        if not _is_function(tool) or tool["function"].keys() - _TOOL_FIELDS:
            raise wrong(
                "a tool",
                tool,
                '{"type": "function", "function": {"name": ...}}, in which the function has'
                " description, parameters and strict too",
            )
    return list(value)


def _tool_choice(name: str, value: Any) -> str | Mapping[str, Any]:
    is_mode = isinstance(value, str) and value in ("auto", "none", "required")
    if not is_mode and not _is_function(value):
        form = '{"type": "function", "function": {"name": ...}}'
        raise wrong(name, value, f'"auto", "none", "required", or {form}')
    return value  # type: ignore[no-any-return]


def _is_function(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.get("type") != "function":
        return False
    function = value.get("function")
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


READERS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("max_tokens", "min_tokens", "logprobs"), _count),
    **dict.fromkeys(("temperature", "top_p", "min_p"), _number),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), _number),
    **dict.fromkeys(("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"), _flag),
    "top_k": integer,
    "seed": _seed,
    "stop": _stop,
    "stop_token_ids": _token_ids,
    "allowed_token_ids": _token_ids,
    "bad_words": _texts,
    "logit_bias": _logit_bias,
    "grammar": _grammar,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _flag,
    "chat_template_kwargs": _mapping,
}
