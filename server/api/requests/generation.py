"""What a translator asks of the service and what it gets back.

These types carry no transport and no engine detail: HTTP and gRPC fill and read the same ones, so
the same request asks the same of the engine on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from server.api.images.decoding import ReadImage
from server.link.frames import FinishReason
from server.link.sampling import Grammar
from server.link.status import VersionState

type ResumeExactness = Literal["exact", "consistent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling options as a client gave them: None means unset, and the default applies.

    Defaults: `max_tokens` whatever the context still holds (the completions endpoint says 16),
    `temperature` 1, `top_p` 1, `top_k` 0 or -1 for off, `seed` one drawn by the server. `logprobs`
    is the number of alternatives per generated token (0 for only the token's own, None for none),
    `prompt_logprobs` the same for the prompt's. `allowed_token_ids`, unless empty, are the only
    tokens that may be drawn; no text of `bad_words` is completed. `grammar` is the form that the
    text must have.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """What a client has of a stream that broke: the version it began on and, by choice, the tokens
    it received. Fewer entries than choices: of the others nothing was received.
    """

    version: str
    received: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One prompt, `n` choices.

    `model` empty means the served one. `prompt` is text or token ids. `add_special_tokens` tells
    whether the tokenizer may put its own in front (off for a rendered chat template).
    `truncate_prompt_tokens` keeps only the prompt's last tokens, -1 as many as leave room for
    `max_tokens`; None refuses a prompt that is too long.
    `default_max_tokens` is for an unset `max_tokens`, as far as the context holds that many; None
    is whatever it holds. `resume` goes on with a broken stream. `timeout_seconds` is what is left
    of the client's deadline, None where it set none. `source` is a hash of who sent it.
    `grammar_asked_as` is the field of the request that has the grammar, for a refusal. `images` are
    those of the prompt, in their order. They are large: the list is emptied when the engine has
    them.
    """

    prompt: str | tuple[int, ...]
    model: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    default_max_tokens: int | None = None
    resume: ResumePoint | None = None
    request_id: str = ""
    timeout_seconds: float | None = None
    source: str = ""
    grammar_asked_as: str = "grammar"
    images: list[ReadImage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's natural-log probability, its text and bytes, and alternatives (best first)."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True, kw_only=True)
class Delta:
    """What came for one choice since the last delta of that choice was taken.

    `token_ids` and `logprobs` run in parallel (`logprobs` is None when not asked for). `text` may
    lag behind the tokens: an unfinished UTF-8 sequence and what may become a stop string are held
    back. The last delta of a choice, and only it, has a `finish_reason`; `stop_reason` is then the
    stop string or stop token id that was met, None for an end-of-sequence token or another reason.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a whole request: all choices' generated tokens, the prompt once."""

    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What clients may know of the model being served. `created` is in seconds since the epoch.

    `adapter` is the name of the model's adapter that this is, None for the model itself.
    """

    name: str
    version: str
    max_model_len: int
    created: int
    state: VersionState = "AVAILABLE"
    is_serving: bool = True
    adapter: str | None = None
    adapter_version: str = ""

    @property
    def id(self) -> str:
        """What a request calls it by: the plain name is whichever version is served."""
        if self.adapter is not None:
            return self.adapter
        return self.name if self.is_serving else f"{self.name}@{self.version}"
