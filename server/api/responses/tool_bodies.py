"""The tools of a response and the choice among them, read as the service's types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.chat.tools import Tool, ToolChoice
from server.api.http.errors.union_errors import said_plainly
from server.api.requests.validation import invalid


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class FunctionToolBody(_Wire):
    """A function. Tools that OpenAI runs itself have other types, which are refused."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments; unset is any object."
    )
    strict: bool | None = Field(
        None, description="Have every call match the schema; unset is false."
    )

    def read(self, position: int) -> Tool:
        where = f"tools[{position}]"
        if self.type != "function":
            raise invalid(
                f"{where} is of type {self.type[:64]!r}; this server takes functions only, and runs"
                " no tool itself",
                where,
                "unsupported_parameter",
            )
        if self.name is None:
            is_nested = "function" in (self.model_extra or {})
            hint = "write the fields of function into the tool itself" if is_nested else "give it"
            raise invalid(f"{where} has no name; {hint}", f"{where}.name")
        return Tool(
            name=self.name,
            description=self.description,
            parameters=self.parameters,
            strict=bool(self.strict),
        )

    def echoed(self) -> dict[str, Any]:
        """As the answer repeats it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }


class FunctionChoiceBody(_Wire):
    type: Literal["function"]
    name: str


class AllowedFunctionsBody(_Wire):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoiceBody]


Choice = Annotated[
    Literal["none", "auto", "required"] | FunctionChoiceBody | AllowedFunctionsBody | None,
    said_plainly("must be none, auto, required, an object that names a function, or allowed_tools"),
]


class ToolFields(_Wire):
    """The fields of a response about tools."""

    tools: list[FunctionToolBody] | None = None
    tool_choice: Choice = Field(None, description="Unset is auto.")
    parallel_tool_calls: bool | None = Field(
        None, description="Whether one answer may have several calls; unset is true."
    )

    def read_tools(self) -> tuple[Tool, ...]:
        """The tools that the choice allows."""
        tools = tuple(tool.read(i) for i, tool in enumerate(self.tools or ()))
        if not isinstance(self.tool_choice, AllowedFunctionsBody):
            return tools
        allowed = [entry.name for entry in self.tool_choice.tools]
        if unknown := set(allowed) - {tool.name for tool in tools}:
            message = f"tool_choice allows {min(unknown)[:64]!r}, which is none of the tools"
            raise invalid(message, "tool_choice")
        return tuple(tool for tool in tools if tool.name in allowed)

    def read_tool_choice(self) -> ToolChoice:
        match self.tool_choice:
            case FunctionChoiceBody(name=name):
                return ToolChoice("named", name)
            case AllowedFunctionsBody(mode=mode):
                return ToolChoice(mode)
            case choice:
                return ToolChoice(choice or "auto")

    def echoed_tool_choice(self) -> str | dict[str, Any]:
        match self.tool_choice:
            case FunctionChoiceBody(name=name):
                return {"type": "function", "name": name}
            case AllowedFunctionsBody(mode=mode, tools=tools):
                allowed = [{"type": "function", "name": tool.name} for tool in tools]
                return {"type": "allowed_tools", "mode": mode, "tools": allowed}
            case choice:
                return choice or "auto"
