"""Scheduled rows as a test writes them down: a prompt, what of it is computed, and options."""

from __future__ import annotations

from server.engine.policy.sequences.block_table import block_table
from server.engine.policy.sequences.step import ScheduledRow
from tests.engine.builders import make_sequence

BLOCK_SIZE = 4


def make_row(
    prompt,
    num_computed,
    num_scheduled,
    *,
    output=(),
    in_flight=0,
    slot=0,
    blocks=(1, 2, 3, 4, 5, 6),
    is_sampling=True,
    **params,
):
    """A row as the scheduler makes it: `output` is known to the host, `in_flight` tokens are not.

    The sequence has as many of `blocks` as the row's end needs; in layers of the second kind it has
    given back those before the row's first.
    """
    seq = make_sequence(prompt, **params)
    seq.token_ids += output
    seq.num_in_flight_tokens = in_flight
    seq.slot = slot
    table = block_table(blocks[: -(-(num_computed + num_scheduled) // BLOCK_SIZE)])
    num_returned = num_computed // BLOCK_SIZE
    seq.block_tables = (table, block_table([0] * num_returned) + table[num_returned:])
    return ScheduledRow(seq, num_computed, num_scheduled, is_sampling, False)
