"""Tools for a model whose chat template knows none: instructions, calls and results as plain text.

The form is that of the Hermes models: many models have seen it, and it is read back by the same
reader. Knows no template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from server.api.chat.messages import Message, ToolCall
from server.api.chat.tools import Tool

_INSTRUCTIONS = """You can call functions. Each line between <tools> and </tools> describes one:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>
Write one such block for each call. Results come between <tool_response> and </tool_response>."""


def with_tool_instructions(
    messages: Sequence[Message], tools: Sequence[Tool], *, as_system: bool
) -> list[Message]:
    """The conversation with the tools in its system message, or else in its first user message."""
    lines = "\n".join(json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=lines)
    role = "system" if as_system else "user"
    first = next((i for i, message in enumerate(messages) if message.role == role), None)
    if first is None or (as_system and first > 0):
        return [Message(role=role, content=instructions), *messages]
    joined = _with_instructions(messages[first], instructions, at_end=as_system)
    return [*messages[:first], joined, *messages[first + 1 :]]


def _with_instructions(message: Message, instructions: str, *, at_end: bool) -> Message:
    if message.parts:
        given = message.parts
        return message.with_parts((*given, instructions) if at_end else (instructions, *given))
    texts = (message.content, instructions) if at_end else (instructions, message.content)
    return replace(message, content="\n\n".join(filter(None, texts)))


def fold_calls(messages: Sequence[Message]) -> list[Message]:
    """The conversation with calls in the assistant's text, and results in messages of the user.

    Results join their neighbours, because many templates want user and assistant to alternate.
    """
    folded: list[Message] = []
    joins = False
    for message in messages:
        is_result = message.role == "tool"
        plain = _result(message) if is_result else _with_calls(message)
        if folded and (joins or is_result) and folded[-1].role == plain.role == "user":
            plain = _joined(folded.pop(), plain)
        folded.append(plain)
        joins = is_result
    return folded


def _joined(first: Message, second: Message) -> Message:
    """Two messages of the user as one."""
    if first.parts or second.parts:
        return second.with_parts((*first.as_parts(), *second.as_parts()))
    return replace(second, content=f"{first.content}\n{second.content}")


def _result(message: Message) -> Message:
    user = Message(role="user")
    if message.parts:
        return user.with_parts(("<tool_response>", *message.parts, "</tool_response>"))
    return replace(user, content=f"<tool_response>\n{message.content}\n</tool_response>")


def _with_calls(message: Message) -> Message:
    if not message.tool_calls:
        return message
    blocks = [message.content, *map(_call, message.tool_calls)]
    return replace(message, content="\n".join(filter(None, blocks)), tool_calls=())


def _call(call: ToolCall) -> str:
    written = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"
