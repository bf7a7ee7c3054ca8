"""Makes requests that mean the same over both transports, or refuses them.

Knows neither gRPC nor HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antipode.errors import InvalidRequestError
from antipode.types import CHAT_OPTIONS, Options, Prompt, Request, is_chat

_NAMES = frozenset(Options.__annotations__)


def make_request(
    prompt: Prompt, options: Mapping[str, Any], *, model: str, n: int, request_id: str
) -> Request:
    """A request without options that are None. InvalidRequestError for what there is none of."""
    if unknown := sorted(options.keys() - _NAMES):
        raise InvalidRequestError(
            f"there is no option {unknown[0]}; the options are {', '.join(sorted(_NAMES))}"
        )
    given: Any = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    _check_chat_options(prompt, given)
    return Request(
        prompt=_with_plain_content(prompt), model=model, n=n, request_id=request_id, options=given
    )


def _check_chat_options(prompt: Prompt, given: Mapping[str, Any]) -> None:
    """Both transports take the same forms of tools."""
    names = sorted(given.keys() & CHAT_OPTIONS)
    if names and not is_chat(prompt):
        raise InvalidRequestError(f"{names[0]} goes with messages only, not with a text or tokens")
    for tool in given.get("tools", ()):
        if not _names_function(tool):
            raise InvalidRequestError(
                'a tool must be {"type": "function", "function": {"name": ..., ...}}'
            )
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none", "required") and not _names_function(choice):
        raise InvalidRequestError(
            'tool_choice must be "auto", "none", "required", or'
            ' {"type": "function", "function": {"name": ...}}'
        )


def _names_function(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.get("type") != "function":
        return False
    function = value.get("function")
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _with_plain_content(prompt: Any) -> Any:
    """Messages with their text parts joined, as the server joins them."""
    if not isinstance(prompt, list | tuple):
        return prompt
    return [
        {**entry, "content": _text(entry["content"])}
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), list | tuple)
        else entry
        for entry in prompt
    ]


def _text(parts: Any) -> str:
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or "text" not in part:
            raise InvalidRequestError("a message's content must be text or a list of text parts")
    return "\n".join(str(part["text"]) for part in parts)
