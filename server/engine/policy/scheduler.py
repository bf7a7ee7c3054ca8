"""Which sequences run in the next step, and what a step's tokens mean for them.

Pure policy over plain integers: no arrays, no transport, and the time is an argument. At most one
dispatched step may be unread when `schedule` is called; its tokens are then still in flight, and a
sequence may turn out to have ended in the step before one that already runs it again: that row is
void. A step runs one version of the weights; while sequences of two are there, they take turns.
"""

from __future__ import annotations

from server.engine.policy.admission import AdmissionError, check_admission
from server.engine.policy.block_manager import BlockManager
from server.engine.policy.block_pool import IntegrityError
from server.engine.policy.events import (
    error_event,
    finish_reason,
    record_prompt_logprobs,
    token_event,
)
from server.engine.policy.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step import RowResult, ScheduledBatch, ScheduledRow, StepResult
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent

type SequenceEvent = tuple[Sequence, TokenEvent]


def take_turns(wanted: set[LoadedVersion], last: LoadedVersion | None) -> list[LoadedVersion]:
    """The versions in the order in which they may run next: the one that ran last at the end."""
    return sorted(wanted, key=lambda version: (version == last, version.number))


class Scheduler:
    """Owns every unfinished sequence, the slots, and through the block manager the KV blocks.

    Each step holds every decode, then chunks of prompts under way, then new admissions, first come
    first served, within `max_num_batched_tokens` tokens and `max_num_seqs` slots. A chunk is cut to
    what there are blocks for. Who finds no block preempts the most recently admitted sequence.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_queue_len: int,
        max_model_len: int,
        versions: ServedVersions,
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
        self._max_num_tokens = min(max_model_len, block_manager.max_num_tokens)
        block_manager.check_windows(max_num_batched_tokens, self._max_num_tokens)
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []  # in the order of admission
        self.versions = versions
        self._last_version: LoadedVersion | None = None
        # The sequence that waits for blocks: nobody behind it may take them, of whatever version.
        self._starved: Sequence | None = None

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def num_waiting_requests(self) -> int:
        """Requests with a choice that waits. Safe to read from another thread."""
        return len({_request(seq) for seq in tuple(self._waiting)})

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def num_free_blocks(self) -> int:
        """Of that kind of layers of which most are held, as is `num_usable_blocks`."""
        return self.block_manager.fullest.num_free_blocks

    @property
    def num_usable_blocks(self) -> int:
        return self.block_manager.fullest.num_usable_blocks

    @property
    def is_queue_full(self) -> bool:
        return (
            len(self._waiting) >= self._max_queue_len
            and self.num_waiting_requests >= self._max_queue_len
        )

    def retarget(self) -> None:
        """Another version is served: the digests of sequences that wait for it are outdated."""
        for seq in self._waiting:
            if seq.version is None:
                seq.block_digests.clear()

    def users(self, version: LoadedVersion) -> list[Sequence]:
        """The unfinished sequences that run, or must run, on this version."""
        return [seq for seq in (*self._running, *self._waiting) if seq.version == version]

    def withdraw(self, version: LoadedVersion) -> None:
        """Let every request that has no token of `version` yet begin again on what is served."""
        users = self.users(version)
        begun = {_request(seq) for seq in users if seq.has_begun or seq.is_pinned}
        for seq in reversed(users):
            if _request(seq) not in begun:
                if seq.state is SequenceState.RUNNING:
                    self._preempt(seq)
                seq.version = None
                seq.block_digests.clear()
                seq.prompt_logprobs[:] = [None]

    def add(self, seqs: list[Sequence], now: float, *, first: bool = False) -> None:
        """Queue all choices of one request, or raise AdmissionError and take none.

        `first` is for the engine's own requests: they go to the head of even a full queue.
        """
        leader = seqs[0]
        for seq in seqs:
            check_admission(seq, self.block_manager, self._max_num_tokens, now)
            if self.is_queue_full and not first:
                raise AdmissionError(
                    "queue_full", f"{self._max_queue_len} requests wait already; try again later"
                )
        is_shared = self.block_manager.num_shareable_blocks(leader.num_prompt_tokens) > 0
        for seq in seqs:
            seq.max_num_tokens = min(seq.max_num_tokens, self._max_num_tokens)
            seq.prompt_logprobs = leader.prompt_logprobs
            seq.leader = leader if is_shared and seq is not leader else None
        end = 0 if first else len(self._waiting)
        self._waiting[end:end] = seqs

    def num_cached_tokens(self, seq: Sequence) -> int:
        """How much of a new sequence's prompt it would find in the prefix cache."""
        own, seq.version = seq.version, self._target(seq)
        num_tokens = self.block_manager.num_cached_tokens(seq)
        seq.version = own
        return num_tokens

    def release_request(self) -> list[Sequence]:
        """Give up the first request in the queue of which nothing has run, if there is one."""
        begun = {_request(seq) for seq in self._running}
        begun |= {_request(seq) for seq in self._waiting if seq.first_scheduled_time is not None}
        first = next((seq for seq in self._waiting if _request(seq) not in begun), None)
        if first is None:
            return []
        seqs = [seq for seq in self._waiting if _request(seq) == _request(first)]
        self._waiting = [seq for seq in self._waiting if seq not in seqs]
        self._starved = None if self._starved in seqs else self._starved
        return seqs

    def adopt(self, seqs: list[Sequence]) -> None:
        """Queue a request that another scheduler of the same limits has taken in, and given up."""
        self._waiting += seqs

    def schedule(self, now: float) -> ScheduledBatch:
        """Choose the rows of the next step and advance their counts as if it had run."""
        for version in take_turns(self.wanted_versions(), self._last_version):
            batch = self.schedule_version(version, now)
            if batch or batch.num_preempted:
                self._last_version = version
                return batch
        return ScheduledBatch(())

    def wanted_versions(self) -> set[LoadedVersion]:
        """The versions that somebody runs on, or could now."""
        wanted = {seq.version for seq in self._running} | set(map(self._target, self._waiting))
        return {version for version in wanted if version is not None}

    def _target(self, seq: Sequence) -> LoadedVersion | None:
        return seq.version or self.versions.serving

    def schedule_version(self, version: LoadedVersion, now: float) -> ScheduledBatch:
        """The same, of the sequences of one version."""
        num_running = self.num_running
        rows = self._schedule_running(version)
        num_preempted = num_running - self.num_running
        # Who was preempted must not come back before what is in flight for it was read.
        if not num_preempted:
            num_tokens = sum(row.num_scheduled_tokens for row in rows)
            budget = self._max_num_batched_tokens - num_tokens
            rows += self._schedule_admissions(version, budget, now)
        rows.sort(key=lambda row: not row.is_decode)
        return ScheduledBatch(tuple(rows), num_preempted, version)

    def postprocess(self, batch: ScheduledBatch, result: StepResult) -> list[SequenceEvent]:
        """Apply what a step found, in the order the steps were dispatched."""
        events = []
        for row, row_result in zip(batch.rows, result.rows, strict=True):
            # A sequence that ended while this step was in flight: its row is void.
            if row.seq.state is SequenceState.FINISHED:
                continue
            if row.seq.version != batch.version:  # It was withdrawn, to begin again on another.
                row.seq.num_in_flight_tokens -= row.is_sampling
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
        return error_event(seq, error, message)

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
        self.block_manager.check_integrity(self._running)
        slots = [*self._free_slots, *(seq.slot for seq in self._running)]
        if sorted(slots) != list(range(self._max_num_seqs)):
            raise IntegrityError("slots are lost or held twice")
        if any(seq.block_tables or seq.slot >= 0 for seq in self._waiting):
            raise IntegrityError("a waiting sequence holds blocks or a slot")

    def _schedule_running(self, version: LoadedVersion) -> list[ScheduledRow]:
        """Every decode, and chunks of prompts under way with what those leave of the budget."""
        rows = []
        running = [seq for seq in self._running if seq.version == version]
        budget = self._max_num_batched_tokens - sum(seq.is_decoding for seq in running)
        for seq in running:
            is_decoding = seq.is_decoding
            wanted = 1 if is_decoding else min(budget, seq.num_uncomputed_tokens)
            num_tokens = self._make_room(seq, wanted)
            if num_tokens:
                rows.append(self._run(seq, num_tokens))
                budget -= 0 if is_decoding else num_tokens
        return rows

    def _schedule_admissions(
        self, version: LoadedVersion, budget: int, now: float
    ) -> list[ScheduledRow]:
        rows = []
        for seq in tuple(self._waiting):
            if budget == 0 or not self._free_slots:
                break
            if seq.is_deferred:
                continue
            if self._target(seq) != version:
                if seq is self._starved and self._target(seq) is not None:
                    break
                continue
            # No one overtakes: a small request must not keep a large one out for ever.
            if not self._admit(seq, version, budget, now):
                break
            num_tokens = min(budget, seq.num_uncomputed_tokens)
            rows.append(self._run(seq, num_tokens, is_admitted=True))
            budget -= num_tokens
        return rows

    def _admit(self, seq: Sequence, version: LoadedVersion, max_chunk: int, now: float) -> bool:
        """Give `seq` its slot and blocks, leaving each running sequence one block to grow into."""
        # A preempted sequence comes back with all its tokens known or not at all.
        if seq.num_in_flight_tokens:
            return False
        num_tokens = min(seq.num_tokens + 1, seq.max_num_tokens)
        version_before, seq.version = seq.version, version
        if not self.block_manager.allocate(
            seq, num_tokens, max_chunk=max_chunk, others=self._running
        ):
            seq.version, self._starved = version_before, seq
            return False
        self._starved = None
        self._waiting.remove(seq)
        if version_before is None:
            self._bind_choices(seq, version)
        self._running.append(seq)
        seq.state = SequenceState.RUNNING
        seq.slot = self._free_slots.pop()
        seq.leader = None
        if seq.first_scheduled_time is None:
            seq.first_scheduled_time = now
            seq.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
        return True

    def _bind_choices(self, seq: Sequence, version: LoadedVersion) -> None:
        """One request runs on one version: the choices that still wait follow the first."""
        for other in self._waiting:
            if _request(other) == _request(seq):
                other.version = version

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

    def _make_room(self, seq: Sequence, wanted: int) -> int:
        """How many of the next `wanted` tokens of `seq` have blocks now.

        At least one, preempting from the end; 0 if `seq` was or is now preempted itself. Rows are
        scheduled in the order of admission, so a victim has none in this step yet.
        """
        others = self._running if wanted > 1 else ()
        while wanted and seq.state is SequenceState.RUNNING:
            num_tokens = self.block_manager.grow(seq, wanted, others=others)
            if num_tokens:
                return num_tokens
            self._preempt(self._running[-1])
        return 0

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
        record_prompt_logprobs(row, result)
        if result.token_id is not None:
            seq.token_ids.append(result.token_id)
        # A preempted sequence has lost the blocks this step wrote.
        if seq.state is SequenceState.RUNNING:
            self.block_manager.index(seq, row.end)
            self.block_manager.slide(seq, row.end)
        reason = finish_reason(row, result.token_id)
        if reason is not None:
            self.finish(seq, reason)
        if reason is None and result.token_id is None:
            return None
        return token_event(row, result)


def _request(seq: Sequence) -> tuple[int, int]:
    """Which request a choice is of."""
    return seq.client, seq.request_id
