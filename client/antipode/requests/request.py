"""Makes requests that mean the same over both transports, or refuses them.

Knows neither gRPC nor HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antipode.errors import InvalidRequestError
from antipode.requests.images import Image, read_image
from antipode.requests.options import integer, read_options, wrong
from antipode.types import CHAT_OPTIONS, Prompt, Request, is_chat

_IMAGE_TYPES = ("image", "image_url")
_MESSAGE_FIELDS = {
    "role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content",
}  # fmt: skip


def make_request(
    prompt: Prompt, options: Mapping[str, Any], *, model: str, n: int, request_id: str
) -> Request:
    """A request without options that are None. InvalidRequestError for what cannot be sent."""
    given = read_options(options)
    names = sorted(given.keys() & CHAT_OPTIONS)
    if names and not is_chat(prompt):
        raise InvalidRequestError(f"{names[0]} goes with messages only, not with a text or tokens")
    return Request(
        prompt=_read_prompt(prompt),
        model=model or "",
        n=integer("n", n),
        request_id=request_id,
        options=given,
    )


def _read_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        raise wrong("the prompt", prompt, "a text, a list of token ids, or a list of messages")
    if any(isinstance(entry, str) for entry in prompt):
        raise wrong("the prompt", prompt, "one text; call once for each of several")
    if is_chat(prompt):
        return [_message(entry, f"messages[{i}]") for i, entry in enumerate(prompt)]
    return [integer("a token id of the prompt", entry) for entry in prompt]


def _message(entry: Any, where: str) -> dict[str, Any]:
    """A message without fields that are None. Its content is text, or a list with images."""
    if not isinstance(entry, Mapping):
        raise wrong(where, entry, "a mapping with role and content")
    message = {name: value for name, value in entry.items() if value is not None}
    # An answer of another library may have empty lists of what it does not use.
    if unknown := sorted(name for name in message.keys() - _MESSAGE_FIELDS if message[name]):
        raise InvalidRequestError(
            f"{where} has the field {unknown[0]}; a message may have"
            f" {', '.join(sorted(_MESSAGE_FIELDS))}"
        )
    message = {name: value for name, value in message.items() if name in _MESSAGE_FIELDS}
    if isinstance(message.get("content"), list | tuple):
        message["content"] = _content(message["content"], f"{where}.content")
    says_something = message.get("tool_calls") or message.get("reasoning_content")
    if "content" not in message and not (message.get("role") == "assistant" and says_something):
        raise InvalidRequestError(f"{where} has no content")
    return message


def _content(parts: Any, where: str) -> str | list[str | Image]:
    """Texts and images in their order; texts alone are joined, as the server does."""
    read = [_part(part, f"{where}[{i}]") for i, part in enumerate(parts)]
    if any(isinstance(part, Image) for part in read):
        return read
    return "\n".join(map(str, read))


def _part(part: Any, where: str) -> str | Image:
    if isinstance(part, Mapping):
        if part.get("type") == "text" and "text" in part:
            return str(part["text"])
        if part.get("type") in _IMAGE_TYPES:
            return read_image(part, where)
    raise InvalidRequestError(
        "a message's content must be text or a list of text parts and image parts"
    )
