"""Garbage collections while many streams run."""

from __future__ import annotations

import gc

import pytest

from server.processes.api.__main__ import settle_collections

NUM_STREAMS, NUM_STEPS = 256, 100
# Python's own.
DEFAULT = (700, 10, 10)


@pytest.fixture
def generations():
    """The generation of each collection since `settle_collections`, which is undone."""
    found, before = [], gc.get_threshold()

    def note(phase, info):
        if phase == "start":
            found.append(info["generation"])

    gc.collect()
    gc.set_threshold(*DEFAULT)
    settle_collections()
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)


def test_the_tokens_of_a_step_begin_no_collection(generations):
    for _ in range(NUM_STEPS):
        step = [[[i], {"index": i}] for i in range(NUM_STREAMS)]
        del step
    assert not generations


def test_garbage_that_refers_to_itself_is_still_found(generations):
    for _ in range(30_000):
        cycle = []
        cycle.append(cycle)
    assert generations.count(0) >= 2
