"""One choice of one request, as the engine's policy sees it: tokens, counts, blocks, times.

Plain Python, owned by the step loop; nothing here decides anything. Counts of tokens run ahead of
`token_ids` by what is in flight: sampled on the device, not yet read by the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from server.engine.policy.drafts.drafter import Drafter
from server.engine.policy.sequences.block_table import BlockTable
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.grammar.matcher import Matcher
from server.link.frames import EngineErrorKind, FinishReason, Pooling, TokenLogprobs
from server.link.images import PromptImage
from server.link.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One loading of a version's weights. The same version loaded again is another.

    `name` is the version's. Where a version of another path has the same, ~ and a count follow.
    """

    name: str = ""
    number: int = 0

    @property
    def version(self) -> str:
        """The version as requests name it, and as answers report it."""
        return self.name.partition("~")[0]


class SequenceState(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


# How soon the first token is hoped for where the caller names no time, in seconds.
USUAL_TTFT_SECONDS = 5.0


# No generated repr: it would carry prompt and completion into logs and tracebacks.
@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Sequence:
    """A token stream being generated.

    `client` numbers the API connection it came by; `source` names who sent it, for taking turns
    among sequences of one `priority`. Below zero it may be shed and preempted for others.
    `ttft_seconds` is the time to the first token that its caller hopes for.
    `version` is whose weights it runs on, from its first token to its last: None until it is
    admitted, unless its request names one (`is_pinned`).
    `rank` of the data axis has its slot and blocks; it may change until it is first scheduled.
    `token_ids` is the prompt and what was generated, as far as the host knows it. It begins with
    the prompt and the `num_received_tokens` that another replica has generated.
    `max_num_tokens` bounds prompt and generated tokens together; the scheduler sets it.
    `num_cached_tokens` were found in the prefix cache when the sequence was first admitted;
    `num_expected_tokens` is how many of a waiting sequence are expected to be found there.
    `num_computed_tokens` have their KV, counting the steps in flight.
    `num_in_flight_tokens`: 1 while a step that samples for it is unread, 2 between dispatching the
    next such step and reading that one.
    `adapter` is the loading of an adapter that it runs with. `adapter_slot` is the number of that
    adapter's slot on the device while the sequence runs, 0 without an adapter.
    `slot` is its row of the device's per-sequence state, -1 while it is not running.
    `block_tables` are its blocks by kind of layers, 0 for those given back; none while not running.
    `kept_positions` are where steps keep its recurrent state, in order. `restored_slot` is the slot
    of the state that its next step begins with; -1: its own.
    `drafter` guesses its next tokens; None before the first guess.
    `matcher` follows the grammar that the generated tokens must fit; None without one.
    `images` are in the order of their tokens. A step computes all tokens of an image, or none.
    `prompt_logprobs` grows by position as chunks are read and is shared by a request's choices.
    `pooling` is how the prompt becomes an embedding; the sequence then ends with its prompt.
    `pooled` has a part for each chunk that was read.
    Times are seconds of the monotonic clock.
    """

    seq_id: int
    client: int
    request_id: int
    index: int
    params: SamplingParams
    eos_token_ids: tuple[int, ...]
    token_ids: list[int]
    arrival: float
    deadline: float | None = None
    source: str = ""
    priority: int = 0
    ttft_seconds: float | None = None
    version: LoadedVersion | None = None
    adapter: LoadedAdapter | None = None
    rank: int = 0
    num_received_tokens: int = 0
    leader: Sequence | None = None
    matcher: Matcher | None = None
    pooling: Pooling | None = None
    images: tuple[PromptImage, ...] = ()
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])
    pooled: list[bytes] = field(default_factory=list)

    num_prompt_tokens: int = field(init=False)
    is_pinned: bool = field(init=False)
    stop_token_ids: frozenset[int] = field(init=False)
    max_num_tokens: int = field(init=False)
    state: SequenceState = field(default=SequenceState.WAITING, init=False)
    finish_reason: FinishReason | None = field(default=None, init=False)
    error: EngineErrorKind | None = field(default=None, init=False)
    num_cached_tokens: int = field(default=0, init=False)
    num_expected_tokens: int = field(default=0, init=False)
    num_computed_tokens: int = field(default=0, init=False)
    num_in_flight_tokens: int = field(default=0, init=False)
    slot: int = field(default=-1, init=False)
    adapter_slot: int = field(default=0, init=False)
    block_tables: tuple[BlockTable, ...] = field(default=(), init=False)
    block_digests: list[bytes] = field(default_factory=list, init=False)
    num_indexed_blocks: int = field(default=0, init=False)
    kept_positions: tuple[int, ...] = field(default=(), init=False)
    restored_slot: int = field(default=-1, init=False)
    drafter: Drafter | None = field(default=None, init=False)
    first_scheduled_time: float | None = field(default=None, init=False)
    first_token_time: float | None = field(default=None, init=False)
    last_token_time: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids) - self.num_received_tokens
        self.is_pinned = self.version is not None
        self.max_num_tokens = self.num_prompt_tokens + self.params.max_tokens
        eos_token_ids = () if self.params.ignore_eos else self.eos_token_ids
        self.stop_token_ids = frozenset((*eos_token_ids, *self.params.stop_token_ids))

    @property
    def due(self) -> float:
        """When its first token is hoped for, or needed."""
        hope = USUAL_TTFT_SECONDS if self.ttft_seconds is None else self.ttft_seconds
        return min(self.arrival + hope, math.inf if self.deadline is None else self.deadline)

    @property
    def request(self) -> tuple[int, int]:
        """Which request this is a choice of: the client, and the client's number for it."""
        return self.client, self.request_id

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens, counting those in flight."""
        return len(self.token_ids) + self.num_in_flight_tokens

    @property
    def num_generated_tokens(self) -> int:
        """Generated tokens, counting those in flight."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def has_begun(self) -> bool:
        """Whether a token of it is known to the host, and perhaps to the client."""
        return len(self.token_ids) > self.num_prompt_tokens

    @property
    def num_own_tokens(self) -> int:
        """Tokens generated here, as far as the host knows them."""
        return len(self.token_ids) - self.num_prompt_tokens - self.num_received_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose KV the next sampled token still needs; 0 when no more will be sampled.

        The last token of a full sequence needs none, but a prompt is computed even for no token at
        all: its log probabilities may be all that was asked for.
        """
        end = len(self.token_ids) + self.num_in_flight_tokens
        if end >= self.max_num_tokens:
            end = self.num_prompt_tokens
        return max(0, end - self.num_computed_tokens)

    def before_image(self, end: int) -> int:
        """The position `end`, or the start of the image that it would cut."""
        for image in self.images:
            if image.start < end < image.start + image.num_tokens:
                return image.start
        return end

    def whole_chunk(self, num_tokens: int) -> int:
        """As many of the next `num_tokens` as cut no image, and pass one kept position at most."""
        if not self.images and not self.kept_positions:
            return num_tokens
        computed = self.num_computed_tokens
        end = self.before_image(computed + num_tokens)
        kept = [position for position in self.kept_positions if computed < position <= end]
        return (kept[0] if len(kept) > 1 else end) - computed

    @property
    def is_decoding(self) -> bool:
        """Only its newest token is left to compute."""
        return (
            self.num_computed_tokens >= self.num_prompt_tokens and self.num_uncomputed_tokens == 1
        )

    @property
    def is_deferred(self) -> bool:
        """A choice that waits for the first one to compute the prompt, to find it in the cache."""
        leader = self.leader
        return (
            leader is not None
            and leader.state is not SequenceState.FINISHED
            and len(leader.token_ids) == leader.num_prompt_tokens
        )

    @property
    def needs_whole_prompt(self) -> bool:
        """Every prompt position must be computed here.

        An embedding of more than the last token needs all hidden states of the prompt, or its log
        probabilities are not known yet.
        """
        return self.pooling in ("mean", "cls") or (
            self.params.num_prompt_logprobs >= 0
            and len(self.prompt_logprobs) < self.num_prompt_tokens
        )

    @property
    def queued_seconds(self) -> float:
        """From its arrival to its first step; 0 before that."""
        begun = self.first_scheduled_time
        return 0.0 if begun is None else max(0.0, begun - self.arrival)

    @property
    def outcome(self) -> str:
        """How a finished sequence counts in the metrics."""
        return self.error or self.finish_reason or self.state.value

    @property
    def seconds_per_output_token(self) -> float | None:
        """Mean over the tokens after the first; None while there is no such."""
        num_gaps = self.num_own_tokens - 1
        if self.first_token_time is None or self.last_token_time is None or num_gaps < 1:
            return None
        return (self.last_token_time - self.first_token_time) / num_gaps
