"""The options that completions and chats share, and their reading as the service's `Sampling`.

Types are checked here, strictly; bounds by the service. `foreign_fields` renames, refuses or passes
the fields that a body does not have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import FailFast, Field, create_model, model_validator

from server.api.foreign_fields.checking import asked_names, with_own_names
from server.api.openai.bodies.field_types import (
    MAX_TOKENS_BOUNDS,
    REST_OF_CONTEXT,
    BadWord,
    Body,
    Name,
    Stop,
    TokenIds,
    Tokens,
    bounds,
)
from server.api.openai.bodies.grammar_bodies import read_grammar
from server.api.requests.generation import ResumePoint, Sampling
from server.api.requests.numbers import Int
from server.api.requests.validation import LOGIT_BIAS_RANGE, MAX_BAD_WORDS, check_count, invalid
from server.link.sampling import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS, OPTIONS, Option

# The service's options that a body spells another way; all others have the same name in both.
_SPELLED_OTHERWISE = {"max_tokens", "logprobs", "logit_bias", "stop", "grammar"}

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")

_SAME_NAME = {field.name for field in fields(Sampling)} - _SPELLED_OTHERWISE


class StreamOptions(Body):
    """A whole answer has its token counts without being asked, so `stream` need not be true."""

    include_usage: bool | None = Field(
        None, description="Send a last chunk with the token counts and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        None, description="Send the token counts so far with every chunk too."
    )


class ResumeBody(Body):
    """What was received of a stream that broke, to be continued from its next token."""

    model_version: Name = Field("", description="The version it began on, as it reported.")
    token_ids: Annotated[list[TokenIds], FailFast()] = Field(
        [], description="By choice, the generated tokens received."
    )
    prompt_token_ids: TokenIds | None = Field(
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
    return (Int if option.type is int else option.type) | None, shown


if TYPE_CHECKING:
    # No type checker can read fields from a table. `SamplingBody.sampling` reads them by name.
    _OptionsBody = Body
else:
    _OptionsBody = create_model(
        "_OptionsBody",
        __base__=Body,
        **{option.name: _field(option) for option in OPTIONS if option.rule.row is not None},
    )


class SamplingBody(_OptionsBody):
    """The options that both generation endpoints share. Null is the same as left out."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return with_own_names(data, cls.model_fields.keys()) if isinstance(data, dict) else data

    model: Name = Field("", description="The served model's name; empty is whichever is served.")
    n: Int | None = Field(None, json_schema_extra=bounds("n"), description="Choices; unset is 1.")
    max_tokens: Int | None = Field(
        None,
        json_schema_extra=MAX_TOKENS_BOUNDS,
        description="0 reads the prompt and generates nothing; -1 is what the context still holds.",
    )
    min_tokens: Int | None = Field(None, json_schema_extra=bounds("min_tokens"))
    logit_bias: dict[str, float] | None = Field(
        None,
        description="Added to the logits, by token id.",
        json_schema_extra={
            "propertyNames": {"pattern": f"^({_TOKEN_ID.pattern})$"},
            "additionalProperties": {"type": "number", **LOGIT_BIAS_RANGE.schema()},
        },
    )
    seed: Int | None = Field(
        None, json_schema_extra=bounds("seed"), description="Unset: one is drawn and reported."
    )
    stop: Stop = None
    stop_token_ids: TokenIds | None = Field(
        None, json_schema_extra={"maxItems": MAX_STOP_TOKEN_IDS}
    )
    allowed_token_ids: Tokens | None = Field(
        None, description="The only tokens that may be drawn; not next to a form of the text."
    )
    bad_words: list[BadWord] | None = Field(
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
    truncate_prompt_tokens: Int | None = Field(
        None,
        description="Keep so many of the prompt's last tokens; -1: as many as leave room for"
        " max_tokens.",
    )
    prompt_logprobs: Int | None = Field(None, json_schema_extra=bounds("prompt_logprobs"))
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


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _logit_bias(logit_bias: Mapping[str, float]) -> dict[int, float]:
    check_count("logit_bias", logit_bias, MAX_LOGIT_BIASES)
    return {_token_id(key): bias for key, bias in logit_bias.items()}


def _token_id(key: str) -> int:
    """05 is refused: next to 5, one of the two would be lost."""
    if not _TOKEN_ID.fullmatch(key):
        raise invalid(f"logit_bias has the key {key[:40]!r}, which is no token id", "logit_bias")
    return int(key)
