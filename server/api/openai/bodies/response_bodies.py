"""What clients get: the bodies of the HTTP endpoints' answers.

These structs are both what is encoded and what the OpenAPI document shows. A field that is UNSET is
left out; the first three fields after OpenAI's in an answer are this server's own.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from server.api.requests.generation import ResumeExactness
from server.api.tool_calls.events import AnswerFinishReason
from server.link.frames import FinishReason
from server.link.status import VersionState


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class UsageBody(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class PromptLogprob(Struct, frozen=True):
    """One candidate for a position of the prompt."""

    logprob: float
    decoded_token: str


# By token id: the prompt's own token first, then the alternatives. The first position has none.
type PromptLogprobs = list[dict[str, PromptLogprob] | None]


class AnswerHead(Struct, frozen=True, kw_only=True):
    """What every answer of a generation endpoint begins with.

    `seed` is the one given or drawn; with several prompts the first one's, each choice has its own.
    `resume_exactness` is left out of a new stream that is not exact.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    model_version: str
    seed: int
    resume_exactness: ResumeExactness | UnsetType = UNSET


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """Parallel lists, one entry a token. Only the first token of an echoed prompt has nulls."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    seed: int
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(AnswerHead, frozen=True, kw_only=True):
    """A whole completion, or one chunk of a streamed one (there, `usage` comes in the last)."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: UsageBody | UnsetType | None = UNSET


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChatLogprob]
    refusal: None = None


class FunctionCall(Struct, frozen=True, kw_only=True):
    """`arguments` is JSON text, in a chunk the next piece of it."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ToolCallDelta(Struct, frozen=True, kw_only=True):
    """`id`, `type` and the name come first, then the pieces of the arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionCall


class ChatMessage(Struct, frozen=True):
    """`content` is null where the answer has only calls or only reasoning. Both names of reasoning
    are in use, and hold the same.
    """

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: AnswerFinishReason
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(AnswerHead, frozen=True, kw_only=True):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatDelta(Struct, frozen=True):
    content: str | UnsetType = UNSET
    role: Literal["assistant"] | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: AnswerFinishReason | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletionChunk(AnswerHead, frozen=True, kw_only=True):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: UsageBody | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ModelCard(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["antipode"] = "antipode"
    root: str
    parent: str | None = None
    max_model_len: int
    model_version: str
    version: str
    state: VersionState


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokenized(Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(Struct, frozen=True):
    prompt: str
