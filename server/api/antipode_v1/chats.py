"""The chats of antipode.v1 as the service's conversations: messages, calls, tools and the choice.

Schemas, arguments and template options come as JSON text. What is no JSON object is refused by
name. Knows neither a chat template nor the call that brings a chat.
"""

from __future__ import annotations

from typing import Any

from server.api.chat.call_arguments import arguments_of
from server.api.chat.format import Conversation
from server.api.chat.messages import Message, Part, ToolCall, check_results
from server.api.chat.template import RenderOptions
from server.api.chat.tools import Tool, ToolChoice
from server.api.images.sent_image import image_of_bytes, image_of_url
from server.api.requests.client_json import read_object
from server.api.requests.validation import invalid
from server.pb.antipode.v1 import generation_pb2 as pb

_MODES = {
    pb.ToolChoice.MODE_UNSPECIFIED: "auto",
    pb.ToolChoice.MODE_AUTO: "auto",
    pb.ToolChoice.MODE_NONE: "none",
    pb.ToolChoice.MODE_REQUIRED: "required",
    pb.ToolChoice.MODE_NAMED: "named",
}


def conversation(chat: pb.Chat) -> Conversation:
    """In the service's words. ApiError for a message or a tool that cannot be read."""
    has_parallel = chat.HasField("parallel_tool_calls")
    messages = tuple(_message(entry, i) for i, entry in enumerate(chat.messages))
    check_results(messages, "chat.messages")
    return Conversation(
        messages=messages,
        tools=tuple(_tool(entry, i) for i, entry in enumerate(chat.tools)),
        tool_choice=_tool_choice(chat.tool_choice),
        parallel_tool_calls=chat.parallel_tool_calls if has_parallel else True,
        options=RenderOptions(
            add_generation_prompt=add_generation_prompt(chat),
            continue_final_message=chat.continue_final_message,
            template_options=_object(chat.template_options, "chat.template_options"),
        ),
    )


def add_generation_prompt(chat: pb.Chat) -> bool:
    """A message that is to be continued is not followed by the opening of another."""
    if chat.HasField("add_generation_prompt"):
        return chat.add_generation_prompt
    return not chat.continue_final_message


def _message(entry: pb.ChatMessage, position: int) -> Message:
    where = f"chat.messages[{position}]"
    if not entry.role:
        raise invalid(f"{where} has no role; every message needs a role", where)
    if entry.tool_calls and entry.role != "assistant":
        raise invalid(f"{where} has tool_calls, but its role is {entry.role[:64]!r}", where)
    if entry.parts and entry.content:
        raise invalid(f"{where} has both content and parts; give one of them", where)
    message = Message(
        role=entry.role,
        content=entry.content,
        name=entry.name if entry.HasField("name") else None,
        tool_calls=tuple(
            _call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(entry.tool_calls)
        ),
        tool_call_id=entry.tool_call_id if entry.HasField("tool_call_id") else None,
        reasoning=entry.reasoning if entry.HasField("reasoning") else None,
    )
    if not entry.parts:
        return message
    return message.with_parts(
        [_part(part, f"{where}.parts[{i}]") for i, part in enumerate(entry.parts)]
    )


def _part(entry: pb.ContentPart, where: str) -> Part:
    match entry.WhichOneof("part"):
        case "text":
            return entry.text
        case None:
            raise invalid(f"{where} has neither text nor an image", where)
    match entry.image.WhichOneof("source"):
        case "data":
            return image_of_bytes(entry.image.data, entry.image.media_type, where)
        case "url":
            return image_of_url(entry.image.url, where)
    raise invalid(f"{where} has an image with neither data nor url", where)


def _call(entry: pb.ToolCall, where: str) -> ToolCall:
    if not entry.name:
        raise invalid(f"{where} has no name; give the name of the function", where)
    return ToolCall(id=entry.id, name=entry.name, arguments=arguments_of(entry.arguments, where))


def _tool(entry: pb.Tool, position: int) -> Tool:
    parameters = _object(entry.parameters, f"chat.tools[{position}].parameters")
    return Tool(
        name=entry.name,
        description=entry.description if entry.HasField("description") else None,
        parameters=parameters or None,
        strict=entry.strict,
    )


def _tool_choice(choice: pb.ToolChoice) -> ToolChoice:
    mode = _MODES.get(choice.mode)
    match mode:
        case "named":
            return ToolChoice("named", choice.name)
        case "auto" | "none" | "required" if not choice.name:
            return ToolChoice(mode)
    raise invalid(
        f"chat.tool_choice has mode {choice.mode} and the name {choice.name[:64]!r}; a name goes"
        " with MODE_NAMED only",
        "chat.tool_choice",
    )


def _object(text: str, where: str) -> dict[str, Any]:
    """A JSON object; an empty text is an empty one."""
    return read_object(text, where) if text else {}
