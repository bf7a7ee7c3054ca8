from __future__ import annotations

import asyncio
import os

import pytest

from server.processes.api.beats import LOOKS, Beats, beat


@pytest.fixture
def beats():
    beats = Beats()
    yield beats
    beats.close()


def look(beats, count):
    for _ in range(count):
        beats.look()


def test_a_process_that_has_not_begun_is_not_judged(beats):
    look(beats, 10 * LOOKS)
    assert not beats.is_hung


def test_silence_after_a_beat_is_a_hang(beats):
    os.write(beats.writing, b".")
    look(beats, LOOKS)
    assert not beats.is_hung
    look(beats, 1)
    assert beats.is_hung


def test_one_beat_ends_the_silence(beats):
    os.write(beats.writing, b".")
    look(beats, LOOKS)
    os.write(beats.writing, b".")
    look(beats, LOOKS)
    assert not beats.is_hung


async def test_a_loop_that_runs_beats_and_a_full_pipe_does_not_stop_it(beats):
    while True:
        try:
            os.write(beats.writing, bytes(4096))
        except BlockingIOError:
            break
    beating = asyncio.create_task(beat(beats.writing))
    await asyncio.sleep(0)
    assert not beating.done()
    beating.cancel()
    look(beats, 1)
    assert not beats.is_hung
