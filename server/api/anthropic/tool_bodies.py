"""The tools of an Anthropic request and the choice among them, read as the service's types."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.chat.tools import Tool, ToolChoice
from server.api.requests.refused_fields import check_fields, refused
from server.api.requests.validation import invalid

_FIELDS_OF_TOOLS = {
    **refused("defer_loading", "all tools are in the prompt", False),
    **refused("allowed_callers", "this server runs no code that could call tools", ["direct"]),
    **refused("input_examples", "write the examples into the description", []),
}


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class AnthropicToolBody(_Wire):
    """A tool that the client runs. Anthropic's own tools have other types, which are refused."""

    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Have every use match the schema.")

    def read(self, position: int) -> Tool:
        where = f"tools[{position}]"
        if self.type not in (None, "custom"):
            raise invalid(
                f"{where} is of type {self.type[:64]!r}; this server takes tools with an"
                " input_schema, and runs none itself",
                where,
            )
        check_fields(self.model_extra or {}, _FIELDS_OF_TOOLS, where)
        if self.input_schema is None:
            has_other = "parameters" in (self.model_extra or {})
            hint = "; write parameters as input_schema" if has_other else ""
            raise invalid(f"{where} has no input_schema{hint}", f"{where}.input_schema")
        return Tool(
            name=self.name,
            description=self.description,
            parameters=self.input_schema,
            strict=bool(self.strict),
        )


class AnthropicChoiceBody(_Wire):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def read(self) -> ToolChoice:
        match self.type:
            case "any":
                return ToolChoice("required")
            case "tool":
                if not self.name:
                    raise invalid("tool_choice has no name of a tool", "tool_choice.name")
                return ToolChoice("named", self.name)
            case mode:
                return ToolChoice(mode)
