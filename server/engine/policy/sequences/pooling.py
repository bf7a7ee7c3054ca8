"""Which tokens of a prompt make its embedding, and how the parts of chunks are kept.

A step gives a row the sum of the hidden states of its pooled tokens, as bytes that policy never
opens. Knows neither arrays nor what becomes of the sum.
"""

from __future__ import annotations

from server.engine.policy.sequences.step import RowResult, ScheduledRow


def pooled_positions(row: ScheduledRow) -> range:
    """The positions of the row whose hidden states count; empty in a request for tokens."""
    last = row.seq.num_prompt_tokens - 1
    match row.seq.pooling:
        case "mean":
            pooled = range(last + 1)
        case "cls":
            pooled = range(1)
        case "last":
            pooled = range(last, last + 1)
        case None:
            pooled = range(0)
    first = max(pooled.start, row.num_computed_tokens)
    return range(first, max(first, min(pooled.stop, row.end)))


def record_pooled(row: ScheduledRow, result: RowResult) -> None:
    """Keep the sum of a chunk. A prompt that is computed again brings every sum again."""
    if row.seq.pooling is None:
        return
    pooled = pooled_positions(row)
    if not pooled:
        return
    parts = row.seq.pooled
    if row.seq.pooling != "mean" or pooled.start == 0:
        parts.clear()
    parts.append(result.pooled)
