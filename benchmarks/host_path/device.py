"""A device without a model: a step ends a fixed time after it began, whatever the host does.

The host packs every step into the arrays of a program, as for a real device, but no program reads
them: what JAX needs to dispatch a step and to copy its tokens is not in here. Every token is a
letter. Knows neither the engine nor the processes around it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.step import RowResult, ScheduledBatch, StepResult
from server.engine.policy.speculation import DraftRoom
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.packing import pack
from tests.e2e.checkpoints import SPECIAL_TOKENS

# In the tokenizer of one token per byte, whose first byte is "!".
_FIRST_LETTER, _NUM_LETTERS = len(SPECIAL_TOKENS) + ord("a") - ord("!"), 26


@dataclass(frozen=True, slots=True)
class InFlight:
    """A dispatched step, and when the device will have done it, in seconds of `perf_counter`."""

    batch: ScheduledBatch
    end: float


@dataclass(slots=True)
class PacedRunner:
    """Runs one step after another, each `step_seconds` long from its dispatch or its turn."""

    kinds: tuple[KVKind, ...]
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    step_seconds: float
    vocab_size: int = 260
    eos_token_ids: tuple[int, ...] = (0,)
    num_ranks: int = 1
    is_bidirectional: bool = False
    readable_image: None = None
    num_snapshots: int | None = None
    num_host_blocks: tuple[int, ...] = ()
    draft_rooms: tuple[DraftRoom, ...] = ()
    _free_at: float = field(default=0.0, init=False)

    def execute(self, batch: ScheduledBatch) -> InFlight:
        table_size = -(-self.max_model_len // self.block_size)
        pack(batch.rows, self._bucket(batch), len(self.kinds), table_size, self.max_num_seqs)
        self._free_at = max(self._free_at, time.perf_counter()) + self.step_seconds
        return InFlight(batch, self._free_at)

    def read(self, in_flight: InFlight) -> StepResult:
        time.sleep(max(0.0, in_flight.end - time.perf_counter()))
        rows = tuple(
            RowResult((_FIRST_LETTER + row.end % _NUM_LETTERS,) if row.is_sampling else ())
            for row in in_flight.batch.rows
        )
        return StepResult(rows, self._bucket(in_flight.batch).num_tokens)

    def _bucket(self, batch: ScheduledBatch) -> Bucket:
        if all(row.is_decode for row in batch.rows):
            return Bucket(self.max_num_seqs, self.max_num_seqs, decode_only=True)
        return Bucket(self.max_num_batched_tokens, self.max_num_seqs, decode_only=False)
