"""Packs where the recurrent states of a step's rows are: which slots they read, write and keep.

NumPy only, as `models.attention.base.StateSlots` orders it: read, written, kept, and the tokens
before what is kept. The last slot is nobody's. Knows neither why a state is kept nor what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.engine.policy.sequences.step import ScheduledRow


def empty_states(num_rows: int, num_states: int) -> np.ndarray:
    """Padding, int32 [4, rows]: it reads and writes the last of `num_states` slots."""
    states_4S = np.full((4, num_rows), num_states - 1, np.int32)
    states_4S[3] = 0
    return states_4S


def pack_states(states_4S: np.ndarray, rows: Sequence[ScheduledRow]) -> None:
    """Put the rows of one rank into what `empty_states` gave."""
    for i, row in enumerate(rows):
        own = row.seq.slot
        states_4S[0, i] = own if row.restored_slot < 0 else row.restored_slot
        states_4S[1, i] = own
        if row.snapshot is not None:
            states_4S[2, i] = row.snapshot.slot
            states_4S[3, i] = row.snapshot.position - row.num_computed_tokens
