"""What is asked and what comes back, in words of neither protocol.

Data only: a request, what a server says when it starts, what comes for a choice, and the counts at
the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

type FinishReason = Literal["stop", "length"]
type Message = Mapping[str, str]
type Prompt = str | Sequence[int] | Sequence[Message]


class Options(TypedDict, total=False):
    """How tokens are drawn and when to stop; what is left out has the server's default.

    `max_tokens` left out is what the context still holds, but 16 for a text over HTTP, as OpenAI
    has it. `logprobs` is the number of alternatives beside each token's own log probability.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt (text, token ids or messages) and `n` choices. `model` empty: the one there is."""

    prompt: Prompt
    model: str = ""
    n: int = 1
    request_id: str = ""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the server said as it began: all that another one needs to go on."""

    request_id: str
    model: str
    model_version: str
    seed: int
    prompt_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What was received of a broken stream: how it started, and each choice's tokens."""

    start: Start
    received: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's text and natural-log probability, and the likeliest in its place, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What came for one choice since its last delta.

    `text` may lag behind `token_ids`: an unfinished character and what may become a stop string are
    held back. `logprobs` run parallel to the tokens, if asked for. The last delta of a choice has a
    `finish_reason`; `stop_reason` is then the stop string or stop token that ended it.
    """

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of the whole call. Cached ones are of the server that finished it."""

    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message of a server: any of its three parts."""

    start: Start | None = None
    delta: Delta | None = None
    usage: Usage | None = None


@dataclass(slots=True, kw_only=True)
class Choice:
    """A whole choice, as `collect` puts it together."""

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
