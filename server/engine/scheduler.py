"""Which sequences run in the next step, and what a step's tokens mean for them.

Pure policy over plain integers: no arrays, no transport, and the time is an argument. At most one
dispatched step may be unread when `schedule` is called; its tokens are then still in flight, and a
sequence may turn out to have ended in the step before one that already runs it again: that row is
void.
"""

from __future__ import annotations

from server.engine.block_manager import BlockManager, IntegrityError
from server.engine.link import EngineErrorKind, FinishReason, TokenEvent
from server.engine.sequence import Sequence, SequenceState
from server.engine.step import RowResult, ScheduledBatch, ScheduledRow, StepResult

type SequenceEvent = tuple[Sequence, TokenEvent]


class AdmissionError(Exception):
    """A request that cannot be taken in."""

    def __init__(self, kind: EngineErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Scheduler:
    """Owns every unfinished sequence, the slots, and through the block manager the KV blocks.

    Each step holds every decode, then chunks of prompts under way, then new admissions, first come
    first served, within `max_num_batched_tokens` tokens and `max_num_seqs` slots. A decode that
    finds no block preempts the most recently admitted sequence.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_queue_len: int,
        max_model_len: int,
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens {max_num_batched_tokens} is below max_num_seqs "
                f"{max_num_seqs}: a step could not hold one token of every sequence"
            )
        self.block_manager = block_manager
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_queue_len = max_queue_len
        # A sequence alone in the pool must be able to run to its end, or it would preempt itself
        # and never fit again.
        pool_tokens = block_manager.num_usable_blocks * block_manager.block_size
        self._max_num_tokens = min(max_model_len, pool_tokens)
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []  # in the order of admission

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting_requests(self) -> int:
        """Requests with a choice that waits. Safe to read from another thread."""
        return len({(seq.client, seq.request_id) for seq in tuple(self._waiting)})

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def is_queue_full(self) -> bool:
        return (
            len(self._waiting) >= self._max_queue_len
            and self.num_waiting_requests >= self._max_queue_len
        )

    def add(self, seqs: list[Sequence], now: float) -> None:
        """Queue all choices of one request, or raise AdmissionError and take none."""
        first = seqs[0]
        self._check(first, now)
        is_shared = self.block_manager.num_shareable_blocks(first.num_prompt_tokens) > 0
        for seq in seqs:
            seq.max_num_tokens = min(seq.max_num_tokens, self._max_num_tokens)
            seq.prompt_logprobs = first.prompt_logprobs
            seq.leader = first if is_shared and seq is not first else None
        self._waiting.extend(seqs)

    def schedule(self, now: float) -> ScheduledBatch:
        """Choose the rows of the next step and advance their counts as if it had run."""
        num_running = self.num_running
        rows = self._schedule_decodes()
        num_preempted = num_running - self.num_running
        budget = self._max_num_batched_tokens - len(rows)
        chunks = self._schedule_chunks(budget)
        budget -= sum(row.num_scheduled_tokens for row in chunks)
        chunks += self._schedule_admissions(budget, now)
        rows += sorted(chunks, key=lambda row: not row.is_decode)
        return ScheduledBatch(tuple(rows), num_preempted)

    def postprocess(self, batch: ScheduledBatch, result: StepResult) -> list[SequenceEvent]:
        """Apply what a step found, in the order the steps were dispatched."""
        events = []
        for row, row_result in zip(batch.rows, result.rows, strict=True):
            # A sequence that ended while this step was in flight: its row is void.
            if row.seq.state is SequenceState.FINISHED:
                continue
            event = self._apply(row, row_result)
            if event is not None:
                events.append((row.seq, event))
        return events

    def expire(self, now: float) -> list[SequenceEvent]:
        """End every sequence whose deadline has passed."""
        late = [
            seq
            for seq in (*self._running, *self._waiting)
            if seq.deadline is not None and seq.deadline <= now
        ]
        return [(seq, self.fail(seq, "deadline_exceeded", "the deadline passed")) for seq in late]

    def fail(self, seq: Sequence, error: EngineErrorKind, message: str) -> TokenEvent:
        """Finish a sequence with an error; its terminal event."""
        self.finish(seq, "error", error)
        return TokenEvent(
            request_id=seq.request_id,
            index=seq.index,
            finish_reason="error",
            error=error,
            message=message,
        )

    def finish(
        self, seq: Sequence, reason: FinishReason, error: EngineErrorKind | None = None
    ) -> None:
        """End an unfinished sequence in any state; its blocks are free at once.

        What is in flight for it comes to nothing.
        """
        if seq.state is SequenceState.RUNNING:
            self._running.remove(seq)
            self._release(seq)
        else:
            self._waiting.remove(seq)
        seq.state = SequenceState.FINISHED
        seq.finish_reason = reason
        seq.error = error

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block and slot is free or held by who runs."""
        self.block_manager.check_integrity(seq.block_table for seq in self._running)
        slots = [*self._free_slots, *(seq.slot for seq in self._running)]
        if sorted(slots) != list(range(self._max_num_seqs)):
            raise IntegrityError("slots are lost or held twice")
        if any(seq.block_table or seq.slot >= 0 for seq in self._waiting):
            raise IntegrityError("a waiting sequence holds blocks or a slot")

    def _check(self, seq: Sequence, now: float) -> None:
        num_prompt_tokens, blocks = seq.num_prompt_tokens, self.block_manager
        num_tokens = num_prompt_tokens + min(1, seq.params.max_tokens)
        num_blocks = blocks.num_blocks_for(num_tokens)
        if not num_prompt_tokens:
            raise AdmissionError("invalid_request", "the prompt is empty")
        if num_blocks > blocks.num_usable_blocks:
            raise AdmissionError(
                "invalid_request",
                f"a prompt of {num_prompt_tokens} tokens needs {num_blocks} KV blocks "
                f"of {blocks.block_size} tokens, but there are {blocks.num_usable_blocks}",
            )
        if num_tokens > self._max_num_tokens:
            raise AdmissionError(
                "invalid_request",
                f"a prompt of {num_prompt_tokens} tokens leaves no room for another "
                f"in the limit of {self._max_num_tokens}",
            )
        if seq.deadline is not None and seq.deadline <= now:
            raise AdmissionError("deadline_exceeded", "the deadline passed before the request ran")
        if self.is_queue_full:
            raise AdmissionError(
                "queue_full", f"{self._max_queue_len} requests wait already; try again later"
            )

    def _schedule_decodes(self) -> list[ScheduledRow]:
        rows = []
        for seq in tuple(self._running):
            if (
                seq.state is SequenceState.RUNNING
                and seq.is_decoding
                and self._make_room(seq, seq.num_computed_tokens + 1)
            ):
                rows.append(self._run(seq, 1))
        return rows

    def _schedule_chunks(self, budget: int) -> list[ScheduledRow]:
        """Chunks of prompts under way; their blocks were allocated on admission."""
        rows = []
        for seq in self._running:
            num_tokens = min(budget, seq.num_uncomputed_tokens)
            if num_tokens and not seq.is_decoding:
                rows.append(self._run(seq, num_tokens))
                budget -= num_tokens
        return rows

    def _schedule_admissions(self, budget: int, now: float) -> list[ScheduledRow]:
        rows = []
        for seq in tuple(self._waiting):
            if budget == 0 or not self._free_slots:
                break
            if seq.is_deferred:
                continue
            # No one overtakes: a small request must not keep a large one out for ever.
            if not self._admit(seq, now):
                break
            num_tokens = min(budget, seq.num_uncomputed_tokens)
            rows.append(self._run(seq, num_tokens, is_admitted=True))
            budget -= num_tokens
        return rows

    def _admit(self, seq: Sequence, now: float) -> bool:
        """Give `seq` its slot and blocks, leaving each running sequence one block to grow into."""
        # A preempted sequence comes back with all its tokens known or not at all.
        if seq.num_in_flight_tokens:
            return False
        num_tokens = min(seq.num_tokens + 1, seq.max_num_tokens)
        if not self.block_manager.allocate(seq, num_tokens, num_spare=self.num_running):
            return False
        self._waiting.remove(seq)
        self._running.append(seq)
        seq.state = SequenceState.RUNNING
        seq.slot = self._free_slots.pop()
        seq.leader = None
        if seq.first_scheduled_time is None:
            seq.first_scheduled_time = now
            seq.num_cached_tokens = seq.num_computed_tokens
        return True

    def _run(
        self, seq: Sequence, num_scheduled_tokens: int, *, is_admitted: bool = False
    ) -> ScheduledRow:
        num_computed_tokens = seq.num_computed_tokens
        seq.num_computed_tokens += num_scheduled_tokens
        is_sampling = (
            seq.num_computed_tokens == seq.num_tokens and seq.num_tokens < seq.max_num_tokens
        )
        seq.num_in_flight_tokens += is_sampling
        return ScheduledRow(
            seq, num_computed_tokens, num_scheduled_tokens, is_sampling, is_admitted
        )

    def _make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Grow `seq`, preempting from the end; False when it had to preempt itself.

        Decodes are scheduled in the order of admission, so a victim has no row in this step yet.
        """
        while not self.block_manager.grow(seq, num_tokens):
            victim = self._running[-1]
            self._preempt(victim)
            if victim is seq:
                return False
        return True

    def _preempt(self, seq: Sequence) -> None:
        """Back to the head of the queue. What is in flight for it is still read and kept."""
        self._running.remove(seq)
        self._release(seq)
        seq.state = SequenceState.WAITING
        self._waiting.insert(0, seq)

    def _release(self, seq: Sequence) -> None:
        self.block_manager.free(seq)
        self._free_slots.append(seq.slot)
        seq.slot = -1

    def _apply(self, row: ScheduledRow, result: RowResult) -> TokenEvent | None:
        seq = row.seq
        seq.num_in_flight_tokens -= row.is_sampling
        if not result.is_finite:
            self.block_manager.forget(seq)
            return self.fail(seq, "internal", "the model's output was not finite")
        self._record_prompt_logprobs(row, result)
        if result.token_id is not None:
            seq.token_ids.append(result.token_id)
        # A preempted sequence has lost the blocks this step wrote.
        if seq.state is SequenceState.RUNNING:
            self.block_manager.index(seq, row.end)
        reason = self._finish_reason(row, result.token_id)
        if reason is not None:
            self.finish(seq, reason)
        if reason is None and result.token_id is None:
            return None
        return self._event(row, result)

    @staticmethod
    def _record_prompt_logprobs(row: ScheduledRow, result: RowResult) -> None:
        """Append what is new: a recomputed chunk, or another choice's, brings known ones again."""
        if result.prompt_logprobs:
            known = row.seq.prompt_logprobs
            known.extend(result.prompt_logprobs[len(known) - row.num_computed_tokens - 1 :])

    @staticmethod
    def _finish_reason(row: ScheduledRow, token_id: int | None) -> FinishReason | None:
        seq = row.seq
        num_generated = len(seq.token_ids) - seq.num_prompt_tokens
        if token_id in seq.stop_token_ids and num_generated > seq.params.min_tokens:
            return "stop"
        # For no token at all the end is full from the start, but the prompt must have run.
        if len(seq.token_ids) >= seq.max_num_tokens and row.end >= seq.num_prompt_tokens:
            return "length"
        return None

    @staticmethod
    def _event(row: ScheduledRow, result: RowResult) -> TokenEvent:
        seq = row.seq
        is_first = len(seq.token_ids) - seq.num_prompt_tokens <= 1
        wants_prompt = is_first and seq.params.num_prompt_logprobs >= 0
        return TokenEvent(
            request_id=seq.request_id,
            index=seq.index,
            token_ids=[] if result.token_id is None else [result.token_id],
            logprobs=None if result.logprobs is None else [result.logprobs],
            finish_reason=seq.finish_reason,
            num_cached_tokens=seq.num_cached_tokens if is_first else 0,
            prompt_logprobs=list(seq.prompt_logprobs) if wants_prompt else None,
        )
