"""What a step found, given to its sequences: their tokens, whether they end, their clients' events.

It ends sequences in every other way too. Who runs next is decided elsewhere; it schedules nothing.
"""

from __future__ import annotations

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.pooling import record_pooled
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import RowResult, ScheduledRow
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent

type SequenceEvent = tuple[Sequence, TokenEvent]


class Results:
    """Takes results for the sequences of `waiting` and `running`; whoever ends leaves these."""

    def __init__(
        self,
        waiting: WaitingQueue,
        running: RunningSet,
        blocks: BlockManager,
        adapters: AdapterSlots,
    ) -> None:
        self._waiting, self._running, self._blocks = waiting, running, blocks
        self._adapters = adapters

    def take(
        self, row: ScheduledRow, result: RowResult, version: LoadedVersion
    ) -> TokenEvent | None:
        """Apply what a step of `version` found for one of its rows; the client's event, if any."""
        seq = row.seq
        self._blocks.settle(row.snapshot, is_sound=result.is_finite)
        # A sequence that ended while this step was in flight: its row is void.
        if seq.state is SequenceState.FINISHED:
            return None
        seq.num_in_flight_tokens -= row.is_sampling
        if seq.version != version:  # It was withdrawn, to begin again on another.
            return None
        if not result.is_finite:
            self._blocks.forget(seq)
            return self.fail(seq, "internal", "the model's output was not finite")
        if result.error:
            return self.fail(seq, "invalid_request", result.error)
        record_prompt_logprobs(row, result)
        record_pooled(row, result)
        num_taken, reason = take_tokens(row, result.token_ids)
        # The KV of drafts that came true is as good as that of other tokens.
        num_accepted = max(0, num_taken - 1)
        if row.draft_ids and seq.drafter is not None:
            seq.drafter.note(num_accepted)
        # A preempted sequence has lost the blocks this step wrote.
        if seq.state is SequenceState.RUNNING:
            seq.num_computed_tokens += num_accepted
            end = row.end - len(row.draft_ids) + num_accepted
            self._blocks.index(seq, end)
            self._blocks.slide(seq, end)
        if reason is not None:
            self.finish(seq, reason)
        elif not num_taken:
            return None
        return token_event(row, result, num_taken)

    def expire(self, now: float) -> list[SequenceEvent]:
        """End every sequence whose deadline has passed."""
        late = [seq for seq in self._running if _is_late(seq, now)]
        for head in self._waiting.heads():
            if _is_late(head, now):
                late += self._waiting.alike(head)
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
            self._running.stop(seq)
        else:
            self._waiting.remove(seq)
        seq.state = SequenceState.FINISHED
        seq.finish_reason = reason
        seq.error = error
        self._adapters.end(seq.adapter)


def _is_late(seq: Sequence, now: float) -> bool:
    return seq.deadline is not None and seq.deadline <= now


def record_prompt_logprobs(row: ScheduledRow, result: RowResult) -> None:
    """Append what is new: a recomputed chunk, or another choice's, brings known ones again."""
    if result.prompt_logprobs:
        known = row.seq.prompt_logprobs
        known.extend(result.prompt_logprobs[len(known) - row.num_computed_tokens - 1 :])


def take_tokens(row: ScheduledRow, token_ids: tuple[int, ...]) -> tuple[int, FinishReason | None]:
    """Give the sequence its tokens, up to one that ends it: how many it took, and why it ends."""
    reason = None if token_ids else finish_reason(row, None)
    for num_taken, token_id in enumerate(token_ids, start=1):
        row.seq.token_ids.append(token_id)
        reason = finish_reason(row, token_id)
        if reason is not None:
            return num_taken, reason
    return len(token_ids), reason


def finish_reason(row: ScheduledRow, token_id: int | None) -> FinishReason | None:
    """Why the sequence ends with this token, which it has already; None if it goes on."""
    seq = row.seq
    num_generated = len(seq.token_ids) - seq.num_prompt_tokens
    if token_id in seq.stop_token_ids and num_generated > seq.params.min_tokens:
        return "stop"
    # A grammar allows an end token early, or despite `ignore_eos`, only where nothing may follow.
    if seq.matcher is not None and token_id in seq.eos_token_ids:
        return "stop"
    if seq.pooling is not None:
        return "stop" if row.end >= seq.num_prompt_tokens else None
    # For no token at all the end is full from the start, but the prompt must have run.
    if len(seq.token_ids) >= seq.max_num_tokens and row.end >= seq.num_prompt_tokens:
        return "length"
    return None


def token_event(row: ScheduledRow, result: RowResult, num_taken: int) -> TokenEvent:
    """What the client is told of a row, after the sequence has taken so many of its tokens."""
    seq = row.seq
    is_first = seq.num_own_tokens <= 1
    wants_prompt = is_first and seq.params.num_prompt_logprobs >= 0
    return TokenEvent(
        request_id=seq.request_id,
        index=seq.index,
        token_ids=list(result.token_ids[:num_taken]),
        logprobs=None if result.logprobs is None else list(result.logprobs[:num_taken]),
        finish_reason=seq.finish_reason,
        num_cached_tokens=seq.num_cached_tokens if is_first else 0,
        queued_seconds=seq.queued_seconds if is_first else 0.0,
        version=seq.version.version if is_first and seq.version else "",
        adapter_version=seq.adapter.version if is_first and seq.adapter else "",
        prompt_logprobs=list(seq.prompt_logprobs) if wants_prompt else None,
        pooled=list(seq.pooled),
    )


def error_event(seq: Sequence, error: EngineErrorKind, message: str) -> TokenEvent:
    """The last event of a sequence that ended with an error."""
    return TokenEvent(
        request_id=seq.request_id,
        index=seq.index,
        finish_reason="error",
        error=error,
        message=message,
    )
