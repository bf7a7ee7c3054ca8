"""The data of requests and answers, for both protocols.

A request, the start of a stream, the deltas of a choice, and the token counts at the end. Knows
neither gRPC nor HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

type FinishReason = Literal["stop", "length"]
type ResumeExactness = Literal["exact", "consistent"]
type Message = Mapping[str, str]
type Prompt = str | Sequence[int] | Sequence[Message]


class Grammar(TypedDict, total=False):
    """The form that a text must have: exactly one of these.

    `json_schema` and `structural_tag` are mappings, or texts of JSON. `lark` may be GBNF too.
    """

    json_schema: Mapping[str, Any] | str
    json_object: bool
    regex: str
    choice: Sequence[str]
    lark: str
    structural_tag: Mapping[str, Any] | str


class Options(TypedDict, total=False):
    """How to draw tokens and when to stop; a field left out has the server's default.

    The default of `max_tokens` is the rest of the context, but 16 for a text over HTTP, as in
    OpenAI's API. `logprobs` is the number of alternatives in addition to each token's own log
    probability.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop_str_in_output: bool
    ignore_eos: bool
    skip_special_tokens: bool
    logprobs: int
    grammar: Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt (text, token ids or messages), `n` choices. Empty `model`: the only one served."""

    prompt: Prompt
    model: str = ""
    n: int = 1
    request_id: str = ""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How the stream started: what another server needs to resume it.

    `resume_exactness` is what the server promises of a resumed stream; see `AsyncStream`.
    """

    request_id: str
    model: str
    model_version: str
    seed: int
    prompt_token_ids: tuple[int, ...] = ()
    resume_exactness: ResumeExactness = "consistent"


def resume_exactness(reported: object) -> ResumeExactness:
    """What a server reports; one that reports nothing, or another word, promises the least."""
    return "exact" if reported == "exact" else "consistent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The received part of a broken stream: how it started, and each choice's tokens."""

    start: Start
    received: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's text and natural-log probability, and its likeliest alternatives, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The new tokens and text of one choice since its last delta.

    `text` may lag behind `token_ids`: the server holds back an unfinished character, and text that
    may become a stop string. `logprobs`, if requested, has one entry per token. The last delta of a
    choice has a `finish_reason`; `stop_reason` is then the stop string or stop token that ended the
    choice.
    """

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of the whole call. The last server counts the cached tokens."""

    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message of a server, with any of its three parts."""

    start: Start | None = None
    delta: Delta | None = None
    usage: Usage | None = None


@dataclass(slots=True, kw_only=True)
class Choice:
    """A whole choice, as `collect` returns it."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
