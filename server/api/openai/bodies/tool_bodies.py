"""The tools of a chat request and the choice among them, read as the service's types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.chat.tools import Tool, ToolChoice
from server.api.http.errors.union_errors import said_plainly
from server.api.requests.validation import invalid

_MAX_NAME_CHARS = 64
_OF_FUNCTIONS = ("name", "description", "parameters", "strict")


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class FunctionBody(_Wire):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments; unset is any object."
    )
    strict: bool | None = Field(None, description="Have every call match the schema.")


class ToolBody(_Wire):
    type: str
    function: FunctionBody | None = None

    def read(self, position: int) -> Tool:
        where = f"tools[{position}]"
        if self.type == "function" and self.function is None:
            flat = [name for name in _OF_FUNCTIONS if name in (self.model_extra or {})]
            has = f"{' and '.join(flat)} outside of function" if flat else "no function"
            raise invalid(
                f"{where} has {has}; write it as"
                f' {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}',
                f"{where}.function",
            )
        if self.type != "function" or self.function is None:
            message = f"{where} is of type {self.type[:64]!r}; this server takes functions only"
            raise invalid(message, where, "unsupported_parameter")
        if len(self.function.name) > _MAX_NAME_CHARS:
            raise invalid(
                f"{where} has a name of {len(self.function.name)} characters; a name has at most"
                f" {_MAX_NAME_CHARS} letters, digits, _ or -",
                f"{where}.function.name",
            )
        return Tool(
            name=self.function.name,
            description=self.function.description,
            parameters=self.function.parameters,
            strict=bool(self.function.strict),
        )


class _Name(_Wire):
    name: str


class NamedChoiceBody(_Wire):
    type: Literal["function"]
    function: _Name


class _AllowedTools(_Wire):
    mode: Literal["auto", "required"]
    tools: list[NamedChoiceBody]


class AllowedToolsBody(_Wire):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


Choice = Annotated[
    Literal["none", "auto", "required"] | NamedChoiceBody | AllowedToolsBody | None,
    said_plainly("must be none, auto, required, an object that names a function, or allowed_tools"),
]


class ToolFields(_Wire):
    """The fields of a chat request about tools."""

    tools: list[ToolBody] | None = None
    tool_choice: Choice = Field(None, description="Unset is auto with tools, and none without.")
    parallel_tool_calls: bool | None = Field(
        None, description="Whether one answer may have several calls; unset is true."
    )

    def read_tools(self) -> tuple[Tool, ...]:
        """The tools that the choice allows."""
        tools = tuple(tool.read(i) for i, tool in enumerate(self.tools or ()))
        if not isinstance(self.tool_choice, AllowedToolsBody):
            return tools
        allowed = [entry.function.name for entry in self.tool_choice.allowed_tools.tools]
        if unknown := set(allowed) - {tool.name for tool in tools}:
            message = f"tool_choice allows {min(unknown)[:64]!r}, which is none of the tools"
            raise invalid(message, "tool_choice")
        return tuple(tool for tool in tools if tool.name in allowed)

    def read_tool_choice(self) -> ToolChoice:
        choice = self.tool_choice
        if isinstance(choice, NamedChoiceBody):
            return ToolChoice("named", choice.function.name)
        if isinstance(choice, AllowedToolsBody):
            return ToolChoice(choice.allowed_tools.mode)
        return ToolChoice(choice or "auto")
