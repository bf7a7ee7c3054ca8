"""The load of two ranks as one."""

from __future__ import annotations

import pytest

from server.engine.policy.load import Load


def load(*numbers, is_queue_full):
    return Load(
        **dict(zip(list(Load.__slots__)[:5], numbers, strict=True)), is_queue_full=is_queue_full
    )


@pytest.mark.parametrize("is_other_full", [False, True])
def test_numbers_add_up_and_both_queues_must_be_full(is_other_full):
    both = load(1, 2, 3, 4, 5, is_queue_full=True) + load(
        10, 20, 30, 40, 50, is_queue_full=is_other_full
    )
    assert both == load(11, 22, 33, 44, 55, is_queue_full=is_other_full)
