"""What clients may send to /v1/responses, and its reading as a conversation and sampling options.

This module checks types, strictly. The service checks bounds, which are only shown here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.chat.format import Conversation
from server.api.chat.template import RenderOptions
from server.api.chat.thinking import Thinking
from server.api.foreign_fields.checking import check_foreign_at
from server.api.requests.client_json import schema_grammar, written_again
from server.api.requests.generation import Sampling
from server.api.requests.numbers import Int
from server.api.requests.validation import RANGES, invalid
from server.api.responses.input_items import Input, read_input
from server.api.responses.tool_bodies import ToolFields
from server.api.responses.unsupported_fields import FIELDS
from server.link.sampling import Grammar

_LOGPROBS = "message.output_text.logprobs"
# What else OpenAI can include is of tools that it runs itself, or is never hidden here.
_INCLUDABLE = (
    _LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


# An answer has at least a token here; only scoring a completion has none.
_MAX_TOKENS = replace(RANGES["max_tokens"], minimum=1)


def _bounds(name: str) -> dict[str, Any]:
    return RANGES[name].schema()


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class TextFormatBody(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    # `schema` is a method of pydantic's models.
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def read(self) -> Grammar | None:
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Grammar("json_object", "")
        if self.json_schema is None:
            raise invalid("text.format has no schema", "text.format.schema")
        return schema_grammar(self.json_schema, "text.format.schema")

    def echoed(self) -> dict[str, Any]:
        """As the answer repeats it."""
        fields = {
            "name": self.name,
            "description": self.description,
            "schema": self.json_schema,
            "strict": self.strict,
        }
        return {"type": self.type} | {k: v for k, v in fields.items() if v is not None}


class TextBody(_Wire):
    format: TextFormatBody | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningBody(_Wire):
    """`summary` is taken, but reasoning is always given in full instead of summarised."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class InputBody(ToolFields):
    """What makes the prompt: the whole body of a count, and part of a response's."""

    model: str = Field("", description="The served model's name; empty is whichever is served.")
    input: Input
    instructions: str | None = Field(None, description="The first system message.")
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's own chat template."
    )

    def check_supported(self) -> None:
        """Refuse what would be ignored to the client's surprise."""
        own = ResponsesBody.model_fields
        check_foreign_at("/v1/responses", self.model_extra or {}, own, FIELDS)
        if self.truncation == "auto":
            raise invalid(
                "truncation auto is not supported by this server; cut the input, and leave"
                " truncation out",
                "truncation",
                "unsupported_parameter",
            )
        if self.text and self.text.verbosity not in (None, "medium"):
            raise invalid(
                "text.verbosity is not supported by this server; say in instructions how long the"
                " answer should be",
                "text.verbosity",
                "unsupported_parameter",
            )

    def conversation(self) -> Conversation:
        """Input and tools in the service's words. ApiError for what cannot be read."""
        parallel = self.parallel_tool_calls
        return Conversation(
            messages=read_input(self.input, self.instructions),
            tools=self.read_tools(),
            tool_choice=self.read_tool_choice(),
            parallel_tool_calls=True if parallel is None else parallel,
            thinking=self._thinking(),
            options=RenderOptions(template_options=self.chat_template_kwargs or {}),
        )

    def _thinking(self) -> Thinking:
        effort = self.reasoning.effort if self.reasoning else None
        return Thinking.of_effort(effort, "reasoning.effort")


class ResponsesBody(InputBody):
    """Null is the same as left out."""

    max_output_tokens: Int | None = Field(None, json_schema_extra=_MAX_TOKENS.schema())
    temperature: float | None = Field(None, json_schema_extra=_bounds("temperature"))
    top_p: float | None = Field(None, json_schema_extra=_bounds("top_p"))
    top_k: Int | None = Field(None, json_schema_extra=_bounds("top_k"))
    min_p: float | None = Field(None, json_schema_extra=_bounds("min_p"))
    presence_penalty: float | None = Field(None, json_schema_extra=_bounds("presence_penalty"))
    frequency_penalty: float | None = Field(None, json_schema_extra=_bounds("frequency_penalty"))
    repetition_penalty: float | None = Field(None, json_schema_extra=_bounds("repetition_penalty"))
    seed: Int | None = Field(None, json_schema_extra=_bounds("seed"))
    top_logprobs: Int | None = Field(None, json_schema_extra=_bounds("logprobs"))
    include: list[str] | None = None
    stream: bool | None = None
    store: bool | None = Field(None, description="Taken, but nothing is stored.")
    metadata: dict[str, str] | None = Field(None, description="Repeated in the answer.")
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    max_tool_calls: Int | None = None
    request_id: str | None = Field(
        None, description="Used in the answer's id and the X-Request-Id header, instead of theirs."
    )

    def check_supported(self) -> None:
        super().check_supported()
        for name in self.include or ():
            if name not in _INCLUDABLE:
                raise invalid(f"include has {name[:64]!r}, which this server cannot", "include")
        for name, value in self.echoed(Sampling()).items():
            written_again(value, name)

    def sampling(self) -> Sampling:
        given = {name: getattr(self, name) for name in _SAME_NAME}
        asked = self.max_output_tokens
        if asked is not None and not _MAX_TOKENS.holds(asked):
            raise invalid(f"max_output_tokens must be {_MAX_TOKENS}", "max_output_tokens")
        return Sampling(
            max_tokens=asked,
            logprobs=self._num_logprobs(),
            grammar=self.text.format.read() if self.text and self.text.format else None,
            **given,
        )

    def echoed(self, applied: Sampling) -> dict[str, Any]:
        """What the answer repeats of the request. `applied` has the model's defaults."""
        text, reasoning = self.text, self.reasoning or ReasoningBody()
        form = text.format.echoed() if text and text.format else {"type": "text"}
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
            "safety_identifier": self.safety_identifier,
            "temperature": 1.0 if applied.temperature is None else applied.temperature,
            "text": {
                "format": form,
                "verbosity": "medium",
            },
            "tool_choice": self.echoed_tool_choice(),
            "tools": [tool.echoed() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if applied.top_p is None else applied.top_p,
            "user": self.user,
        }

    def _num_logprobs(self) -> int | None:
        is_included = _LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if is_included or self.top_logprobs else None
