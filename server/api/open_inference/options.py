"""The options of a request: JSON in `sampling_parameters`, parameters, and tensors by their names.

All are one mapping here, which becomes the service's sampling options. Ranges are the service's
business; refused here is what is of another type, unknown, or given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from server.api.foreign_fields.checking import check_foreign_at
from server.api.foreign_fields.meanings import Alias
from server.api.foreign_fields.table import FIELDS
from server.api.open_inference.signature import EXCLUDES_INPUT, SAMPLING, STREAM, TEXT, TOKENS
from server.api.requests.generation import Sampling
from server.api.requests.refused_fields import check_fields, refused
from server.api.requests.validation import invalid
from server.errors import ApiError
from server.link.sampling import Grammar, GrammarKind

# What vLLM generates by default.
DEFAULT_MAX_TOKENS = 16

# What Triton's clients may ask of one tensor. The names of the binary data are read with it.
_REFUSED_OF_TENSORS = {
    **refused("shared_memory_region", "send the data with the request", ""),
    **refused("shared_memory_byte_size shared_memory_offset", "send the data with the request", 0),
    **refused("classification", "this model gives no classes; leave it out", 0),
}
# Options of other servers that would change an answer.
_HAS_LOGPROBS = "POST /v1/completions has log probabilities"
_HAS_CHATS = "POST /v1/chat/completions has it"
# Options of this server's other protocols that would change an answer.
_REFUSED = {
    **refused("logprobs prompt_logprobs top_logprobs", _HAS_LOGPROBS),
    **refused("best_of", "leave it out, or ask for n", 1),
    **refused("guided_json response_format", "write json_schema"),
    **refused("guided_regex", "write regex"),
    **refused("guided_choice", "write choice"),
    **refused("guided_grammar", "write grammar"),
    **refused("structured_outputs", "write the one option that it holds, such as regex"),
    **refused("echo", f"write {EXCLUDES_INPUT}", False),
    **refused("return_token_ids", "the output output_ids has them", False),
    **refused("truncate_prompt_tokens", "cut the prompt before sending it"),
    **refused("resume", "POST /v1/completions has it"),
    **refused("prompt", f"write {TEXT}"),
    **refused("messages chat_template_kwargs reasoning_effort tool_choice", _HAS_CHATS),
    **refused("tools", _HAS_CHATS, []),
    **refused("continue_final_message", _HAS_CHATS, False),
    **refused("add_generation_prompt parallel_tool_calls", _HAS_CHATS, True),
}
# Fields of a request that are no options.
_OWN = (TEXT, TOKENS, SAMPLING, STREAM, EXCLUDES_INPUT)
_GRAMMARS: Mapping[str, GrammarKind] = {
    "json_schema": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "choice": "choice",
    "grammar": "lark",
    "structural_tag": "structural_tag",
}
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("max_tokens", "min_tokens", "top_k", "seed", "n"), int),
    **dict.fromkeys(
        (
            "temperature",
            "top_p",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
        ),
        float,
    ),
    **dict.fromkeys(
        (
            "include_stop_str_in_output",
            "ignore_eos",
            "skip_special_tokens",
            "add_special_tokens",
        ),
        bool,
    ),
    "stop": str | list[str],
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids"), list[int]),
    "bad_words": list[str],
    "logit_bias": dict[int, float],
    **dict.fromkeys(_GRAMMARS, Any),
}
_ALIASES = {
    name: meaning.field
    for name, meaning in FIELDS.items()
    if isinstance(meaning, Alias) and meaning.field in _TYPES
} | {"stop_words": "stop"}
OPTION_NAMES = frozenset((*_TYPES, *_ALIASES))
# Not of Sampling, but of the request around it.
_OF_THE_REQUEST = ("n", "add_special_tokens")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the options of a request say. `grammar_asked_as` is the option that has the grammar."""

    sampling: Sampling
    n: int
    add_special_tokens: bool
    grammar_asked_as: str


def read_options(*sources: Mapping[str, Any]) -> Options:
    """The options of all sources. ApiError for one that is unknown, given twice or of no use."""
    given: dict[str, Any] = {}
    for source in sources:
        for alias, value in source.items():
            name = _ALIASES.get(alias, alias)
            if name in given:
                raise given_twice(alias)
            given[name] = _converted(alias, name, value)
    grammar, asked_as = _grammar(given)
    if isinstance(stop := given.get("stop"), str):
        given["stop"] = [stop]
    of_sampling: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name not in (*_GRAMMARS, *_OF_THE_REQUEST)
    }
    return Options(
        sampling=Sampling(**of_sampling, grammar=grammar),
        n=given.get("n", 1),
        add_special_tokens=given.get("add_special_tokens", True),
        grammar_asked_as=asked_as,
    )


def check_supported(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that would be ignored to the client's surprise."""
    check_foreign_at("this protocol", parameters, (*OPTION_NAMES, *_OWN), _REFUSED)


def check_tensor(parameters: Mapping[str, Any]) -> None:
    """Refuse what would leave a tensor's data elsewhere than the client thinks."""
    check_fields(parameters, _REFUSED_OF_TENSORS, "this server")


class _Key:
    """A key of a JSON object. No two are equal, so that a mapping keeps them all."""

    def __init__(self, text: str) -> None:
        self.text = text


def _key(_: type, text: str) -> _Key:
    return _Key(text)


def read_json(text: str | bytes, name: str) -> dict[str, Any]:
    """The options of a JSON object. ApiError for a text that is none."""
    try:
        pairs = msgspec.json.decode(text or b"{}", type=dict[_Key, Any], dec_hook=_key)
    except msgspec.ValidationError:
        raise invalid(f"{name} must be a JSON object", name) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise invalid(f"{name} is not valid JSON: {error}", name) from None
    found: dict[str, Any] = {}
    for key, value in pairs.items():
        if key.text in found:
            raise given_twice(key.text)
        found[key.text] = value
    return {key: value for key, value in found.items() if value is not None}


def merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping of all sources. ApiError for a name that is in two of them."""
    found: dict[str, Any] = {}
    for source in sources:
        for name in source:
            if name in found:
                raise given_twice(name)
        found |= source
    return found


def given_twice(name: str) -> ApiError:
    """The refusal of what two sources say, or one says twice."""
    return invalid(f"{name[:64]} is given twice; send it once", name[:64])


def _converted(alias: str, name: str, value: Any) -> Any:
    check_supported({alias: value})
    if name not in _TYPES:
        raise invalid(
            f"{alias[:64]} is no option of this server; these are: {', '.join(sorted(_TYPES))}",
            alias[:64],
            "unsupported_parameter",
        )
    try:
        # Several clients send numbers as text.
        return msgspec.convert(value, _TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - ")[0]
        raise invalid(f"{alias}: {reason[0].lower()}{reason[1:]}", alias) from None


def _grammar(given: Mapping[str, Any]) -> tuple[Grammar | None, str]:
    asked = [name for name in _GRAMMARS if given.get(name) not in (None, False)]
    if len(asked) > 1:
        raise invalid(f"{asked[0]} and {asked[1]} both limit the text; send one", asked[1])
    if not asked:
        return None, "grammar"
    name = asked[0]
    return Grammar(_GRAMMARS[name], _GRAMMAR_TEXTS.get(name, _text)(name, given[name])), name


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(f"{name} must be text", name)
    return value


def _json(name: str, value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


_GRAMMAR_TEXTS: Mapping[str, Callable[[str, Any], str]] = {
    "json_schema": _json,
    "choice": _json,
    "structural_tag": _json,
    "json_object": lambda *_: "",
}
