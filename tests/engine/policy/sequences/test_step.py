from __future__ import annotations

import pytest

from server.engine.policy.sequences.step import ScheduledBatch, ScheduledRow
from tests.engine.builders import make_sequence


def make_row(num_computed_tokens, num_scheduled_tokens, *, is_sampling=True):
    return ScheduledRow(
        make_sequence([1, 2, 3, 4]), num_computed_tokens, num_scheduled_tokens, is_sampling, False
    )


def test_a_row_ends_where_its_token_will_stand():
    assert make_row(2, 2).end == 4


@pytest.mark.parametrize(
    ("row", "is_decode"),
    [
        (make_row(4, 1), True),
        (make_row(9, 1), True),
        (make_row(3, 1), False),
        (make_row(4, 2), False),
        (make_row(0, 4), False),
        (make_row(4, 1, is_sampling=False), False),
    ],
)
def test_a_decode_is_one_sampling_token_beyond_the_prompt(row, is_decode):
    assert row.is_decode is is_decode


def test_a_batch_is_as_true_as_its_rows_and_counts_their_tokens():
    assert not ScheduledBatch(())
    assert not ScheduledBatch((), num_preempted=1)
    batch = ScheduledBatch((make_row(4, 1), make_row(0, 4)))
    assert batch
    assert batch.num_tokens == 5
