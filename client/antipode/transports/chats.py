"""A conversation as the message Chat: messages, images and tools, schemas as JSON text.

Knows neither what a model makes of tools nor how the chat is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from antipode._pb.antipode.v1 import generation_pb2 as pb
from antipode.requests.images import Image

_MODES = {
    "auto": pb.ToolChoice.MODE_AUTO,
    "none": pb.ToolChoice.MODE_NONE,
    "required": pb.ToolChoice.MODE_REQUIRED,
}


def chat(messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> pb.Chat:
    """`options` are those of a chat. Raises what a wrong type or a missing field raises."""
    built = pb.Chat(
        messages=[_message(entry) for entry in messages],
        tools=[_tool(entry["function"]) for entry in options.get("tools", ())],
        parallel_tool_calls=options.get("parallel_tool_calls"),
    )
    if "tool_choice" in options:
        built.tool_choice.CopyFrom(_tool_choice(options["tool_choice"]))
    if variables := options.get("chat_template_kwargs"):
        built.template_options = json.dumps(variables)
    return built


def _message(entry: Mapping[str, Any]) -> pb.ChatMessage:
    fields = {"reasoning" if k == "reasoning_content" else k: v for k, v in entry.items()}
    fields["tool_calls"] = [_call(call) for call in entry.get("tool_calls") or ()]
    if isinstance(entry.get("content"), list):
        fields["parts"] = [_part(part) for part in fields.pop("content")]
    return pb.ChatMessage(**fields)


def _part(part: str | Image) -> pb.ContentPart:
    if isinstance(part, str):
        return pb.ContentPart(text=part)
    if part.url:
        return pb.ContentPart(image=pb.Image(url=part.url))
    return pb.ContentPart(image=pb.Image(data=part.data, media_type=part.media_type))


def _call(call: Mapping[str, Any]) -> pb.ToolCall:
    function = call["function"]
    return pb.ToolCall(
        id=call.get("id"), name=function["name"], arguments=_json(function.get("arguments"))
    )


def _tool(function: Mapping[str, Any]) -> pb.Tool:
    fields = {**function, "parameters": _json(function.get("parameters"))}
    return pb.Tool(**fields)


def _tool_choice(choice: str | Mapping[str, Any]) -> pb.ToolChoice:
    if isinstance(choice, str):
        return pb.ToolChoice(mode=_MODES[choice])
    return pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name=choice["function"]["name"])


def _json(value: Any) -> str | None:
    """An object as JSON text; what is text or nothing stays so."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
