"""What clients may send to /v1/messages, and its reading as a conversation and sampling options.

This module checks types, strictly. The service checks bounds, which are only shown here; only the
temperature's are Anthropic's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.anthropic.message_blocks import AnthropicMessageBody, TextBlocks, read_messages
from server.api.anthropic.tool_bodies import AnthropicChoiceBody, AnthropicToolBody
from server.api.anthropic.unsupported_fields import FIELDS
from server.api.chat.format import Conversation
from server.api.chat.template import RenderOptions
from server.api.chat.thinking import Thinking
from server.api.chat.tools import ToolChoice
from server.api.foreign_fields.checking import check_foreign_at
from server.api.requests.client_json import schema_grammar
from server.api.requests.generation import Sampling
from server.api.requests.numbers import Int
from server.api.requests.validation import RANGES, invalid
from server.link.sampling import Grammar, Range

_TEMPERATURE = Range(0, 1)
# An answer has at least a token here; only scoring a completion has none.
_MAX_TOKENS = replace(RANGES["max_tokens"], minimum=1)
# What a model that knows no effort does anyway.
_DEFAULT_EFFORT = "high"


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class OutputFormatBody(_Wire):
    type: Literal["json_schema"]
    # `schema` is a method of pydantic's models.
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfigBody(_Wire):
    format: OutputFormatBody | None = None
    effort: str | None = None


class ThinkingBody(_Wire):
    """`budget_tokens` is taken, but only `max_tokens` limits the thinking."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Int | None = None
    display: Literal["summarized", "omitted"] | None = None


class PromptBody(_Wire):
    """What makes the prompt: the whole body of a count, and most of a message's."""

    model: str = Field("", description="The served model's name; empty is whichever is served.")
    messages: list[AnthropicMessageBody] = Field(json_schema_extra={"minItems": 1})
    system: TextBlocks = None
    tools: list[AnthropicToolBody] | None = None
    tool_choice: AnthropicChoiceBody | None = Field(None, description="Unset is auto.")
    thinking: ThinkingBody | None = Field(
        None, description="Unset is as the model's template has it."
    )
    output_config: OutputConfigBody | None = None
    output_format: OutputFormatBody | None = Field(None, description="Its older place.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's own chat template."
    )

    def check_supported(self) -> None:
        """Refuse what would be ignored to the client's surprise."""
        own = MessagesBody.model_fields
        check_foreign_at("/v1/messages", self.model_extra or {}, own, FIELDS)

    def conversation(self) -> Conversation:
        """Messages and tools in the service's words; a last message of the assistant goes on."""
        messages = read_messages(self.system, self.messages)
        choice = self.tool_choice
        continues = bool(messages) and messages[-1].role == "assistant"
        return Conversation(
            messages=messages,
            tools=tuple(tool.read(i) for i, tool in enumerate(self.tools or ())),
            tool_choice=choice.read() if choice else ToolChoice(),
            parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
            thinking=self._thinking(),
            options=RenderOptions(
                add_generation_prompt=not continues,
                continue_final_message=continues,
                template_options=self.chat_template_kwargs or {},
            ),
        )

    @property
    def format_field(self) -> str:
        return "output_format" if self.output_format else "output_config.format"

    def grammar(self) -> Grammar | None:
        inner = self.output_config.format if self.output_config else None
        if inner and self.output_format:
            message = "output_format and output_config.format are the same; send one of them"
            raise invalid(message, "output_format")
        form = inner or self.output_format
        return schema_grammar(form.json_schema, self.format_field) if form else None

    def _thinking(self) -> Thinking:
        effort = self.output_config.effort if self.output_config else None
        return Thinking(
            is_on=None if self.thinking is None else self.thinking.type != "disabled",
            effort=None if effort == _DEFAULT_EFFORT else effort,
            effort_field="output_config.effort",
        )


class MessagesBody(PromptBody):
    max_tokens: Int = Field(json_schema_extra=_MAX_TOKENS.schema())
    temperature: float | None = Field(None, json_schema_extra=_TEMPERATURE.schema())
    top_p: float | None = Field(None, json_schema_extra=RANGES["top_p"].schema())
    top_k: Int | None = Field(None, json_schema_extra=RANGES["top_k"].schema())
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    seed: Int | None = Field(None, json_schema_extra=RANGES["seed"].schema())

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is None or self.thinking.display != "omitted"

    def sampling(self) -> Sampling:
        if self.temperature is not None and not _TEMPERATURE.holds(self.temperature):
            raise invalid(f"temperature must be {_TEMPERATURE}", "temperature")
        if not _MAX_TOKENS.holds(self.max_tokens):
            raise invalid(f"max_tokens must be {_MAX_TOKENS}", "max_tokens")
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple(self.stop_sequences or ()),
            grammar=self.grammar(),
        )
