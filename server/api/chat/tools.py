"""The tools that a client offers, and how far the model may choose among them.

Checks what every protocol has in common: names, schemas, and bounds. Knows neither a protocol nor
how a model writes its calls.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.errors import ApiError, ErrorKind

MAX_TOOLS = 256
MAX_TOOL_BYTES = 256 << 10
# Anthropic's limit. A protocol with a lower one checks its own.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. `strict` asks that every call match `parameters`."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments; any object where the client gave none."""
        return self.parameters or {"type": "object", "properties": {}}

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect tools. The order of the keys is part of the prompt."""
        described = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **described, "parameters": dict(self.schema)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`named` calls the tool `name` and nothing else; `required` calls at least one tool."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str = ""

    @property
    def is_forced(self) -> bool:
        return self.mode in ("required", "named")


def check_tools(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """Raises ApiError for tools that cannot be offered, or for a choice that no tool fits."""
    if len(tools) > MAX_TOOLS:
        raise _invalid(f"tools has {len(tools)} entries; give at most {MAX_TOOLS}", "tools")
    for position, tool in enumerate(tools):
        _check_tool(tool, f"tools[{position}]")
    name, count = Counter(tool.name for tool in tools).most_common(1)[0] if tools else ("", 0)
    if count > 1:
        raise _invalid(f"tools has the function {name!r} {count} times; give it once", "tools")
    if choice.is_forced and not tools:
        raise _invalid("tool_choice asks for a call, but there are no tools", "tool_choice")
    if choice.mode == "named" and choice.name not in {tool.name for tool in tools}:
        names = ", ".join(tool.name for tool in tools)[:200]
        message = f"tool_choice names {choice.name[:64]!r}, which is none of the tools: {names}"
        raise _invalid(message, "tool_choice")


def _check_tool(tool: Tool, where: str) -> None:
    if not _NAME.fullmatch(tool.name):
        raise _invalid(
            f"{where} has the name {tool.name[:80]!r}; a name has 1 to 128 letters, digits, _ or -",
            f"{where}.function.name",
        )
    if tool.schema.get("type", "object") != "object":
        raise _invalid(
            f"{where} has parameters of type {tool.schema['type']!r:.80}; they must be a JSON"
            " schema of an object",
            f"{where}.function.parameters",
        )
    num_bytes = len(json.dumps(tool.for_template()))
    if num_bytes > MAX_TOOL_BYTES:
        raise _invalid(
            f"{where} has {num_bytes} bytes; a tool may have {MAX_TOOL_BYTES}", f"{where}.function"
        )


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(ErrorKind.INVALID_REQUEST, message, param=param)
