"""What a row's result means for its sequence: whether it ends, and the event its client is sent.

It reads and writes one sequence's own record, and knows neither queues, blocks nor slots.
"""

from __future__ import annotations

from server.engine.policy.sequence import Sequence
from server.engine.policy.step import RowResult, ScheduledRow
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent


def record_prompt_logprobs(row: ScheduledRow, result: RowResult) -> None:
    """Append what is new: a recomputed chunk, or another choice's, brings known ones again."""
    if result.prompt_logprobs:
        known = row.seq.prompt_logprobs
        known.extend(result.prompt_logprobs[len(known) - row.num_computed_tokens - 1 :])


def finish_reason(row: ScheduledRow, token_id: int | None) -> FinishReason | None:
    """Why the sequence ends with this token, which it has already; None if it goes on."""
    seq = row.seq
    num_generated = len(seq.token_ids) - seq.num_prompt_tokens
    if token_id in seq.stop_token_ids and num_generated > seq.params.min_tokens:
        return "stop"
    # For no token at all the end is full from the start, but the prompt must have run.
    if len(seq.token_ids) >= seq.max_num_tokens and row.end >= seq.num_prompt_tokens:
        return "length"
    return None


def token_event(row: ScheduledRow, result: RowResult) -> TokenEvent:
    """What the client is told of a row, after the sequence has taken its token."""
    seq = row.seq
    is_first = seq.num_own_tokens <= 1
    wants_prompt = is_first and seq.params.num_prompt_logprobs >= 0
    return TokenEvent(
        request_id=seq.request_id,
        index=seq.index,
        token_ids=[] if result.token_id is None else [result.token_id],
        logprobs=None if result.logprobs is None else [result.logprobs],
        finish_reason=seq.finish_reason,
        num_cached_tokens=seq.num_cached_tokens if is_first else 0,
        version=seq.version.name if is_first and seq.version else "",
        prompt_logprobs=list(seq.prompt_logprobs) if wants_prompt else None,
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
