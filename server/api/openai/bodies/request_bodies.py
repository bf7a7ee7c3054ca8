"""What clients may send: the bodies of the endpoints for text, and their reading as requests.

The options that they share are of `sampling_body`, what fields are made of is of `field_types`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from pydantic import Field

from server.api.chat.format import Conversation
from server.api.chat.messages import check_results
from server.api.chat.template import RenderOptions
from server.api.chat.thinking import Thinking
from server.api.foreign_fields.table import OF_INPUTS
from server.api.openai.bodies.field_types import (
    MAX_TOKENS_BOUNDS,
    REST_OF_CONTEXT,
    Body,
    Name,
    Prompt,
    TokenIds,
    bounds,
)
from server.api.openai.bodies.message_bodies import MessageBody
from server.api.openai.bodies.sampling_body import SamplingBody
from server.api.openai.bodies.tool_bodies import ToolFields
from server.api.requests.numbers import Int
from server.api.requests.validation import RANGES, invalid


class CompletionBody(SamplingBody):
    prompt: Prompt
    echo: bool | None = Field(None, description="Put the prompt before each choice's text.")
    logprobs: Int | None = Field(None, json_schema_extra=bounds("logprobs"))

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """One entry a prompt, whichever of the four forms it came in."""
        return [entry if isinstance(entry, str) else tuple(entry) for entry in self._entries()]

    @property
    def num_prompts(self) -> int:
        """Known without the work that `prompts` is for very many."""
        return len(self._entries())

    def _entries(self) -> Sequence[str | list[int]]:
        prompt: Any = self.prompt
        if self.resume is not None and self.resume.prompt_token_ids is not None:
            prompt = self.resume.prompt_token_ids
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return cast(list[str] | list[list[int]], prompt)


class ChatOptions(ToolFields, Body):
    """How messages become a prompt."""

    add_generation_prompt: bool | None = Field(
        None, description="Unset is true, or false with continue_final_message."
    )
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's own chat template."
    )
    reasoning_effort: str | None = Field(
        None, description="For a template that knows it; none switches thinking off."
    )

    def conversation(self, messages: list[MessageBody]) -> Conversation:
        """The messages and tools in the service's words. ApiError for what cannot be read."""
        continues = bool(self.continue_final_message) or _continues(messages)
        adds = self.add_generation_prompt
        parallel = self.parallel_tool_calls
        read = tuple(message.read(i) for i, message in enumerate(messages))
        check_results(read, "messages")
        return Conversation(
            messages=read,
            tools=self.read_tools(),
            tool_choice=self.read_tool_choice(),
            parallel_tool_calls=True if parallel is None else parallel,
            thinking=Thinking.of_effort(self.reasoning_effort, "reasoning_effort"),
            options=RenderOptions(
                add_generation_prompt=not continues if adds is None else adds,
                continue_final_message=continues,
                template_options=self.chat_template_kwargs or {},
            ),
        )


class ChatBody(SamplingBody, ChatOptions):
    messages: list[MessageBody] = Field(json_schema_extra={"minItems": 1})
    max_completion_tokens: Int | None = Field(
        None, json_schema_extra=MAX_TOKENS_BOUNDS, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: Int | None = Field(None, json_schema_extra=bounds("logprobs"))

    def asked_names(self) -> dict[str, str]:
        names = super().asked_names() | {"prompt": "messages", "logprobs": "top_logprobs"}
        newer = {"max_tokens": "max_completion_tokens"}
        return names if self.max_completion_tokens is None else names | newer

    def check_supported(self, of_others: Collection[str] = ()) -> None:
        super().check_supported(of_others)
        if self.max_completion_tokens is None:
            return
        older, allowed = self.max_tokens, RANGES["max_tokens"]
        if older not in (None, REST_OF_CONTEXT) and not allowed.holds(older):
            raise invalid(f"max_tokens must be {allowed}", "max_tokens")

    def read_max_tokens(self) -> int | None:
        """The newer of the two names wins."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    def read_num_logprobs(self) -> int | None:
        """In the service's words: None for none; ApiError if alternatives to nothing are asked."""
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeBody(ChatOptions):
    """Either `prompt` or `messages`."""

    foreign_fields = OF_INPUTS

    model: Name = ""
    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, json_schema_extra={"minItems": 1})
    add_special_tokens: bool | None = Field(
        None, description="Unset is true for a prompt, false for messages."
    )
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    model: Name = ""
    tokens: TokenIds


# The fields that only one of the generation endpoints has.
CHAT_FIELDS = ChatBody.model_fields.keys() - CompletionBody.model_fields.keys()
COMPLETION_FIELDS = CompletionBody.model_fields.keys() - ChatBody.model_fields.keys()


def _continues(messages: Sequence[MessageBody]) -> bool:
    """Whether the last message asks to be continued. ApiError where another one does."""
    for position, message in enumerate(messages):
        is_last = position == len(messages) - 1
        if message.continues and not (is_last and message.role == "assistant"):
            name = "prefix" if message.prefix else "partial"
            where = f"messages[{position}].{name}"
            raise invalid(f"{where} is true; only a last message of the assistant goes on", where)
    return bool(messages) and messages[-1].continues
