"""One step between policy and device: the rows to run, and what running them found.

Plain Python, so that neither side needs the other: the scheduler makes batches and reads results, a
runner does the reverse.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.loaded_adapter import Placement
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence
from server.engine.policy.sequences.snapshot import Snapshot
from server.link.frames import TokenLogprobs
from server.link.images import PromptImage


# A tuple: one is made for every token, and a frozen dataclass takes three times as long.
class ScheduledRow(NamedTuple):
    """One sequence's part of a step: positions [num_computed, num_computed + num_scheduled).

    `is_sampling`: the chunk reaches the sequence's end, so the row draws the token at position
    `end`. `is_admitted`: the sequence just got its slot, whose device-side state must be set; all
    its tokens are then known. `is_replay`: a token that was generated before is computed again as
    the decode that it was. A position beyond `seq.token_ids` holds the token in flight.
    `draft_ids` are the last of the scheduled tokens: guesses, after a token that is known. The row
    draws a token after each of them too. `restored_slot` has the state that the row begins with, -1
    if that is the sequence's own; `snapshot` is the state that it keeps on its way.
    """

    seq: Sequence
    num_computed_tokens: int
    num_scheduled_tokens: int
    is_sampling: bool
    is_admitted: bool
    is_replay: bool = False
    draft_ids: tuple[int, ...] = ()
    restored_slot: int = -1
    snapshot: Snapshot | None = None

    @property
    def end(self) -> int:
        return self.num_computed_tokens + self.num_scheduled_tokens

    @property
    def images(self) -> tuple[PromptImage, ...]:
        """The images whose tokens it computes; never a part of one."""
        if not self.seq.images:
            return ()
        first, end = self.num_computed_tokens, self.end
        return tuple(each for each in self.seq.images if first <= each.start < end)

    @property
    def is_constrained(self) -> bool:
        """It draws a token that its sequence's grammar must allow."""
        return self.is_sampling and self.seq.matcher is not None

    @property
    def needs_finite(self) -> bool:
        """Whether its logits decide something: a token, or whether an embedding is sound."""
        return self.is_sampling or self.seq.pooling is not None

    @property
    def is_decode(self) -> bool:
        return self.is_replay or (
            self.is_sampling
            and self.num_scheduled_tokens == 1 + len(self.draft_ids)
            and self.num_computed_tokens >= self.seq.num_prompt_tokens
        )


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The rows of one step, all of one version; falsy when there is none to run.

    Of each data rank, decodes come first. `num_preempted` is of all ranks. `placements` are the
    adapters that must be put into slots before the step, in this order. `moves` are the blocks of
    each kind of layers that are copied from or to host memory before it; () if none.
    """

    rows: tuple[ScheduledRow, ...]
    num_preempted: int = 0
    version: LoadedVersion = field(default_factory=LoadedVersion)
    placements: tuple[Placement, ...] = ()
    moves: tuple[BlockMoves, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def has_drafts(self) -> bool:
        return any(row.draft_ids for row in self.rows)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_scheduled_tokens for row in self.rows)

    @property
    def num_tokens_of_fullest_rank(self) -> int:
        """What every rank's part is padded to at least."""
        counts: Counter[int] = Counter()
        for row in self.rows:
            counts[row.seq.rank] += row.num_scheduled_tokens
        return max(counts.values(), default=0)

    def of_rank(self, rank: int) -> list[ScheduledRow]:
        """The rows of one data rank, in their order."""
        return [row for row in self.rows if row.seq.rank == rank]


class RowResult(NamedTuple):
    """What a step found for one row.

    `token_ids` is empty where the row did not sample; it has one token, and one more for each draft
    that came true. `logprobs` has as many, where asked for. `prompt_logprobs` has, where asked for,
    one entry per scheduled position p that has a next prompt token: the log probability of the
    token at p + 1. `pooled` is the sum of the hidden states of its pooled tokens, float32 as
    little-endian bytes; empty where the row has none.
    Not `is_finite`: the logits held NaN or infinity. `error`: why the grammar of the
    row's sequence allows no token, empty where it allows one.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | list[TokenLogprobs | None] = ()
    pooled: bytes = b""
    is_finite: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One result per row of the batch; `num_padded_tokens` is the size the step was padded to."""

    rows: tuple[RowResult, ...]
    num_padded_tokens: int = 0
