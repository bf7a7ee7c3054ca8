"""The data of requests and answers, for both protocols.

A request, the start of a stream, the deltas of a choice, and the token counts at the end. Knows
neither gRPC nor HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
ResumeExactness: TypeAlias = Literal["exact", "consistent"]
# As OpenAI has it: a role, content as text or as a list of parts, and calls or a result. A part is
# {"type": "text", "text": ...}, {"type": "image", "image": ...} or OpenAI's image_url part.
Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[int] | Sequence[Message]


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
    """How to draw tokens and when to stop; a field left out, or None, has the server's default.

    The default of `max_tokens` is the rest of the context. `stop` is one text or several.
    `logprobs` is the number of alternatives in addition to each token's own log probability.
    `tools` and `tool_choice` are OpenAI's. They and `chat_template_kwargs`, the variables of the
    model's chat template, go with messages only.
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
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    include_stop_str_in_output: bool
    ignore_eos: bool
    skip_special_tokens: bool
    logprobs: int
    grammar: Grammar
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Literal["auto", "none", "required"] | Mapping[str, Any]
    parallel_tool_calls: bool
    chat_template_kwargs: Mapping[str, Any]


# The options that go with messages only.
CHAT_OPTIONS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"})


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a conversation's messages."""
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


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
class CallDelta:
    """More of call number `index` of a choice; only the first has `id` and `name`.

    `arguments` is more of the JSON text of the arguments.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of a function. `arguments` is JSON text, cut short where the answer was."""

    id: str
    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The new tokens of one choice since its last delta, and what they say.

    `text` may lag behind `token_ids`: the server holds back an unfinished character, and text that
    may become a stop string. `logprobs`, if requested, has one entry per token. The last delta of a
    choice has a `finish_reason`; `stop_reason` is then the stop string or stop token that ended the
    choice. A chat's answer is split: `reasoning` is what the model thought before it answered.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    @property
    def num_characters(self) -> int:
        """How much text the delta has, in any of its parts."""
        calls = sum(len(call.id) + len(call.name) + len(call.arguments) for call in self.calls)
        return len(self.text) + len(self.reasoning) + calls


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
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        for call in delta.calls:
            if call.index == len(self.calls):
                self.calls.append(Call(id=call.id, name=call.name))
            self.calls[call.index].arguments += call.arguments
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be put into the history of the next request."""
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in self.calls
        ]
        return {
            "role": "assistant",
            "content": self.text,
            **({"reasoning_content": self.reasoning} if self.reasoning else {}),
            **({"tool_calls": calls} if calls else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts or token ids. Empty `model`: the only one served. See `AsyncClient.embed`."""

    inputs: Sequence[str | Sequence[int]]
    model: str = ""
    dimensions: int | None = None
    prompt_name: str = ""
    max_tokens: int | None = None


@dataclass(slots=True, kw_only=True)
class Embeddings:
    """One vector per input, in their order, and the model that made the last of them."""

    vectors: list[list[float]] = field(default_factory=list)
    model: str = ""
    model_version: str = ""
    num_prompt_tokens: int = 0

    def add(self, batch: Embeddings) -> None:
        self.vectors += batch.vectors
        self.model, self.model_version = batch.model, batch.model_version
        self.num_prompt_tokens += batch.num_prompt_tokens
