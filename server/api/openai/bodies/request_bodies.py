"""What clients may send: the bodies of the HTTP endpoints, and their reading as service requests.

This module checks types, strictly. It only shows bounds: the service checks them. `foreign_fields`
renames, refuses or passes the fields that a body does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)

from server.api.chat.format import Conversation
from server.api.chat.template import RenderOptions
from server.api.chat.thinking import Thinking
from server.api.foreign_fields.checking import asked_names, check_foreign, with_own_names
from server.api.foreign_fields.meanings import Meaning
from server.api.foreign_fields.table import FIELDS, OF_INPUTS
from server.api.http.errors.plain_errors import said_plainly
from server.api.http.json_bodies.json_decoding import Integers
from server.api.openai.bodies.grammar_bodies import read_grammar
from server.api.openai.bodies.message_bodies import MessageBody
from server.api.openai.bodies.tool_bodies import ToolFields
from server.api.requests.generation import ResumePoint, Sampling
from server.api.requests.validation import (
    LOGIT_BIAS_RANGE,
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORDS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    RANGES,
    check_count,
    invalid,
)
from server.link.sampling import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS, OPTIONS, Option


def _whole(value: Any) -> Any:
    """16.0 as 16: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checked_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Long lists were checked where they were decoded, in a thread."""
    return value if type(value) is Integers else check(value)


def _no_null(value: Any) -> Any:
    return "" if value is None else value


type _Int = Annotated[int, BeforeValidator(_whole)]
type _Name = Annotated[
    str,
    BeforeValidator(_no_null),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
]

# Bounds in `json_schema_extra` are shown, not checked: the service says them in better words.
type _Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
type _TokenId = Annotated[int, Field(json_schema_extra={"minimum": 0})]
type _Texts = Annotated[list[_Text], FailFast(), Field(json_schema_extra={"minItems": 1})]
type _TokenIds = Annotated[list[_TokenId], FailFast(), WrapValidator(_checked_once)]
type _Tokens = Annotated[_TokenIds, Field(json_schema_extra={"minItems": 1})]
type _TokenLists = Annotated[list[_Tokens], FailFast(), Field(json_schema_extra={"minItems": 1})]
type _StopString = Annotated[str, Field(json_schema_extra={"maxLength": MAX_STOP_CHARS})]
type _StopStrings = Annotated[
    list[_StopString], FailFast(), Field(json_schema_extra={"maxItems": MAX_STOP_STRINGS})
]

type _BadWord = Annotated[
    str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_BAD_WORD_CHARS})
]

Prompt = Annotated[
    _Text | _Texts | _Tokens | _TokenLists,
    said_plainly("must be a string, a list of strings, of token ids, or of lists of token ids"),
]
Stop = Annotated[
    _StopString | _StopStrings | None, said_plainly("must be a string or a list of strings")
]


# The service's options that a body spells another way; all others have the same name in both.
_SPELLED_OTHERWISE = {"max_tokens", "logprobs", "logit_bias", "stop", "grammar"}
_SAME_NAME = {field.name for field in fields(Sampling)} - _SPELLED_OTHERWISE


def bounds(name: str) -> dict[str, Any]:
    """The service's range of a field, as the OpenAPI document shows it."""
    return RANGES[name].schema()


# The max_tokens of llama.cpp, Ollama and LM Studio for as many as the context still holds.
REST_OF_CONTEXT = -1
_MAX_TOKENS_BOUNDS = bounds("max_tokens") | {"minimum": REST_OF_CONTEXT}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    foreign_fields: ClassVar[Mapping[str, Meaning]] = FIELDS

    def check_supported(self, of_others: Collection[str] = ()) -> None:
        """Refuse what would be ignored to the client's surprise.

        `of_others` are the fields that only other endpoints have.
        """
        if extra := self.model_extra:
            check_foreign(extra, vars(self), of_others, self.foreign_fields)


class StreamOptions(_Body):
    """A whole answer has its token counts without being asked, so `stream` need not be true."""

    include_usage: bool | None = Field(
        None, description="Send a last chunk with the token counts and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        None, description="Send the token counts so far with every chunk too."
    )


class ResumeBody(_Body):
    """What was received of a stream that broke, to be continued from its next token."""

    model_version: _Name = Field("", description="The version it began on, as it reported.")
    token_ids: Annotated[list[_TokenIds], FailFast()] = Field(
        [], description="By choice, the generated tokens received."
    )
    prompt_token_ids: _TokenIds | None = Field(
        None, description="The prompt as the stream reported it; unset: it is tokenized again."
    )

    def received(self) -> ResumePoint:
        return ResumePoint(
            version=self.model_version, received=tuple(tuple(ids) for ids in self.token_ids)
        )


def _field(option: Option) -> Any:
    """A field of a body for an option of the table: its type, and what the document shows of it."""
    shown = Field(
        None, json_schema_extra=option.rule.allowed.schema(), description=option.rule.description
    )
    return (_Int if option.type is int else option.type) | None, shown


if TYPE_CHECKING:
    # No type checker can read fields from a table. `SamplingBody.sampling` reads them by name.
    _OptionsBody = _Body
else:
    _OptionsBody = create_model(
        "_OptionsBody",
        __base__=_Body,
        **{option.name: _field(option) for option in OPTIONS if option.rule.row is not None},
    )


class SamplingBody(_OptionsBody):
    """The options that both generation endpoints share. Null is the same as left out."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return with_own_names(data, cls.model_fields.keys()) if isinstance(data, dict) else data

    model: _Name = Field("", description="The served model's name; empty is whichever is served.")
    n: _Int | None = Field(None, json_schema_extra=bounds("n"), description="Choices; unset is 1.")
    max_tokens: _Int | None = Field(
        None,
        json_schema_extra=_MAX_TOKENS_BOUNDS,
        description="0 reads the prompt and generates nothing; -1 is what the context still holds.",
    )
    min_tokens: _Int | None = Field(None, json_schema_extra=bounds("min_tokens"))
    logit_bias: dict[str, float] | None = Field(
        None,
        description="Added to the logits, by token id.",
        json_schema_extra={
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"type": "number", **LOGIT_BIAS_RANGE.schema()},
        },
    )
    seed: _Int | None = Field(
        None, json_schema_extra=bounds("seed"), description="Unset: one is drawn and reported."
    )
    stop: Stop = None
    stop_token_ids: _TokenIds | None = Field(
        None, json_schema_extra={"maxItems": MAX_STOP_TOKEN_IDS}
    )
    allowed_token_ids: _Tokens | None = Field(
        None, description="The only tokens that may be drawn; not next to a form of the text."
    )
    bad_words: list[_BadWord] | None = Field(
        None,
        json_schema_extra={"maxItems": MAX_BAD_WORDS},
        description="Texts whose last token is never drawn; not next to a form of the text.",
    )
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = Field(None, description="Unset is true.")
    add_special_tokens: bool | None = Field(
        None, description="Unset is true for a prompt, false for messages."
    )
    truncate_prompt_tokens: _Int | None = Field(
        None,
        description="Keep so many of the prompt's last tokens; -1: as many as leave room for"
        " max_tokens.",
    )
    prompt_logprobs: _Int | None = Field(None, json_schema_extra=bounds("prompt_logprobs"))
    response_format: dict[str, Any] | None = Field(
        None, description="The form of the text: text, json_object or json_schema, as OpenAI's."
    )
    structured_outputs: dict[str, Any] | None = Field(
        None,
        description="The form of the text, as vLLM's: one of json, json_object, regex, choice,"
        " grammar and structural_tag.",
    )
    guided_json: dict[str, Any] | str | None = Field(None, description="An older name.")
    guided_regex: str | None = Field(None, description="An older name.")
    guided_choice: list[str] | None = Field(None, description="An older name.")
    guided_grammar: str | None = Field(None, description="An older name.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(
        None, description="Add token_ids to each choice, and prompt_token_ids."
    )
    resume: ResumeBody | None = Field(
        None,
        description="Go on with a stream that broke, here or elsewhere; the seed is the reported.",
    )
    request_id: str | None = Field(
        None, description="Used in the answer's id and the X-Request-Id header, instead of theirs."
    )

    def asked_names(self) -> dict[str, str]:
        """The names by which the client gave options, by the service's, for errors to use."""
        given = [name for name, value in (self.model_extra or {}).items() if value is not None]
        return asked_names(given, type(self).model_fields)

    def read_includes_usage(self) -> bool:
        """Whether a stream ends with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def read_counts_chunks(self) -> bool:
        """Whether each chunk of a stream has the token counts so far."""
        options = self.stream_options
        return self.read_includes_usage() and bool(options and options.continuous_usage_stats)

    def read_resume(self) -> ResumePoint | None:
        """In the service's words; ApiError where there is no stream that could go on."""
        if self.resume is None:
            return None
        if not self.stream:
            raise invalid("resume needs stream to be true", "resume")
        return self.resume.received()

    @property
    def grammar_asked_as(self) -> str:
        """The field that has the grammar, if one has."""
        return read_grammar(vars(self))[1]

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """All options in the service's words, but for two that each endpoint spells its own way."""
        if self.allowed_token_ids == []:
            raise invalid("allowed_token_ids must not be empty; leave it out", "allowed_token_ids")
        given = {name: getattr(self, name) for name in _SAME_NAME} | {
            "max_tokens": None if max_tokens == REST_OF_CONTEXT else max_tokens,
            "logprobs": logprobs,
            "logit_bias": _logit_bias(self.logit_bias or {}),
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "grammar": read_grammar(vars(self))[0],
        }
        return Sampling(**{k: _frozen(value) for k, value in given.items() if value is not None})


class CompletionBody(SamplingBody):
    prompt: Prompt
    echo: bool | None = Field(None, description="Put the prompt before each choice's text.")
    logprobs: _Int | None = Field(None, json_schema_extra=bounds("logprobs"))

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


class ChatOptions(ToolFields, _Body):
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
        return Conversation(
            messages=tuple(message.read(i) for i, message in enumerate(messages)),
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
    max_completion_tokens: _Int | None = Field(
        None, json_schema_extra=_MAX_TOKENS_BOUNDS, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: _Int | None = Field(None, json_schema_extra=bounds("logprobs"))

    def asked_names(self) -> dict[str, str]:
        names = super().asked_names() | {"prompt": "messages"}
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

    model: _Name = ""
    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, json_schema_extra={"minItems": 1})
    add_special_tokens: bool | None = Field(
        None, description="Unset is true for a prompt, false for messages."
    )
    return_token_strs: bool | None = None


class DetokenizeBody(_Body):
    model: _Name = ""
    tokens: _TokenIds


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


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _logit_bias(logit_bias: Mapping[str, float]) -> dict[int, float]:
    check_count("logit_bias", logit_bias, MAX_LOGIT_BIASES)
    return {_token_id(key): bias for key, bias in logit_bias.items()}


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise invalid(f"logit_bias has the key {key[:40]!r}, which is no token id", "logit_bias")
    return int(key)
