"""The frames between an API process and the engine process.

Each direction has its own tagged union, so the type says who may receive a frame. This module
knows neither what the fields are used for nor how frames travel.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from server.link.images import PromptImage
from server.link.sampling import SamplingParams
from server.link.status import AdapterStatus, EngineLoad, VersionStatus
from server.start_clock import StartPhase

# Which hidden states of a prompt become its embedding: the last token's, the first token's ("cls"),
# or the mean of all.
Pooling = Literal["last", "mean", "cls"]
FinishReason = Literal["stop", "length", "abort", "error"]
EngineErrorKind = Literal[
    "invalid_request", "not_found", "conflict", "queue_full", "overloaded", "deadline_exceeded",
    "unavailable", "internal",
]  # fmt: skip
EngineState = Literal["starting", "ready", "draining"]
AdapterAction = Literal["load", "unload"]
VersionAction = Literal["load", "promote", "rollback", "unload"]
SwapPolicy = Literal["availability", "resource"]


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit", omit_defaults=True):
    """Generate `n` choices for one prompt, or with `pooling` compute the prompt's embedding.

    `received`, unless empty, has an entry a choice: the tokens another replica has generated for
    it, after which it goes on; None for a choice that has ended, of which nothing is asked.
    `request_id` is unique on its connection. `arrival` and `deadline` are seconds of the machine's
    monotonic clock; no deadline is None. `version` None is whichever is served when it begins.
    `adapter` names a low-rank adapter, None for the model itself; `adapter_version` None is
    whichever is loaded. `images` are in the order of their tokens. `source` names who sent the
    request: sources take turns among requests of one `priority`, and a higher priority goes first.
    Below zero, the request may be shed and preempted. `ttft_seconds` is the time to the first token
    that the caller hopes for.
    """

    request_id: int
    prompt_token_ids: list[int]
    images: list[PromptImage] = []
    params: SamplingParams
    n: int = 1
    received: list[list[int] | None] = []
    arrival: float
    deadline: float | None = None
    version: str | None = None
    adapter: str | None = None
    adapter_version: str | None = None
    source: str = ""
    priority: int = 0
    ttft_seconds: float | None = None
    pooling: Pooling | None = None


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort", omit_defaults=True):
    """End choices early: the client went away, or the text reached a stop string.

    `index` None means every choice of the request. `reason` is what the choice counts as; the
    engine sends no event back for it.
    """

    request_id: int
    index: int | None = None
    reason: Literal["abort", "stop", "deadline_exceeded"] = "abort"


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True, tag="vocabulary"):
    """The bytes of each token, by id, and which tokens are no text. Sent before any request."""

    tokens: list[bytes]
    special_token_ids: list[int]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """A request that never reached the engine, for its metrics: the name of the error."""

    outcome: str


class KeyUse(msgspec.Struct, frozen=True, kw_only=True, tag="key_use", omit_defaults=True):
    """A call of an API key has ended, for the metrics: the key's name and the tokens it used."""

    key: str
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0


class VersionCommand(msgspec.Struct, frozen=True, kw_only=True, tag="version", omit_defaults=True):
    """Change which versions are loaded or served; answered by a VersionResult when that is done.

    `path` is where a version to be loaded lies. `policy` None is the server's own.
    """

    command_id: int
    action: VersionAction
    version: str = ""
    path: str = ""
    policy: SwapPolicy | None = None


class AdapterCommand(msgspec.Struct, frozen=True, kw_only=True, tag="adapter", omit_defaults=True):
    """Load or unload a low-rank adapter; answered by a VersionResult when that is done.

    `path` is where the adapter lies; empty is next to the model's versions. `version` None is the
    newest there.
    """

    command_id: int
    action: AdapterAction
    name: str
    version: str | None = None
    path: str = ""


type ToEngine = Submit | Abort | Vocabulary | Refused | KeyUse | VersionCommand | AdapterCommand


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probability of one token under the raw logits, and the best alternatives.

    `top` is (token id, log probability), best first.
    """

    logprob: float
    top: list[tuple[int, float]]


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step did for one choice.

    Exactly one event of a choice has a `finish_reason`, and it is the last. `error` goes with
    finish reason "error" only; `retry_after`, in seconds, is 0 where the error's kind says it.
    `version` (whose weights the choice runs on), `num_cached_tokens` (of the prompt),
    `queued_seconds` (from arrival to the first step) and `prompt_logprobs` (one entry a prompt
    token, None for the first) come with a choice's first event. `adapter_version` comes with
    `version` where the request has an adapter. `pooled` comes with the last event of an embedding:
    sums of hidden states, each float32 in little-endian bytes, that add up to the sum over the
    pooled tokens.
    """

    request_id: int
    index: int = 0
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    error: EngineErrorKind | None = None
    message: str = ""
    retry_after: int = 0
    version: str = ""
    adapter_version: str = ""
    num_cached_tokens: int = 0
    queued_seconds: float = 0.0
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    pooled: list[bytes] = []


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, tag="info"):
    """Sent once, when the engine is ready to serve: what the API process validates against.

    `is_exact`: a request's tokens do not depend on what else runs, nor on where it was resumed.
    `max_loras` adapters may be on the device at once; 0 where the server serves none.
    `max_images` is the most images of a prompt; 0 where the server reads none.
    """

    model: str
    version: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_num_seqs: int
    is_exact: bool = False
    max_loras: int = 0
    max_images: int = 0


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """All events of one step for one API process."""

    events: list[TokenEvent]


class VersionResult(msgspec.Struct, frozen=True, kw_only=True, tag="version", omit_defaults=True):
    """What became of a command: `error` None if it was done."""

    command_id: int
    error: EngineErrorKind | None = None
    message: str = ""


class Pulse(msgspec.Struct, frozen=True, kw_only=True, tag="pulse", omit_defaults=True):
    """Sent by a thread of its own several times a second, whatever the step loop does.

    `progress_age` is seconds since the step loop last came round (0 while starting). `detail` says
    what start-up is doing, `phase` in which phase it is, for `phase_seconds`, and `progress` how
    far the whole start is, 0 to 1. `metrics` is the exposition text.
    `queue_full` tells that the next request would be refused. `queue_stall` is for how many seconds
    requests have waited without one that began. `versions` has the one that is served
    first; `config_error` is why the model configuration file is not followed, empty if it is.
    `adapters` are those that are loaded. `load` is None while starting.
    """

    state: EngineState
    progress_age: float = 0.0
    detail: str = ""
    phase: StartPhase | None = None
    phase_seconds: float = 0.0
    progress: float = 0.0
    metrics: bytes = b""
    num_unfinished: int = 0
    queue_full: bool = False
    queue_stall: float = 0.0
    versions: tuple[VersionStatus, ...] = ()
    config_error: str = ""
    adapters: tuple[AdapterStatus, ...] = ()
    load: EngineLoad | None = None


class Fatal(msgspec.Struct, frozen=True, kw_only=True, tag="fatal"):
    """The engine is about to exit: every stream ends with this message."""

    message: str


type ToApi = EngineInfo | Step | Pulse | VersionResult | Fatal
