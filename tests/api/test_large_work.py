"""Work on long texts: in threads, few at once, bounded, and no thread is lost to a cancellation."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from server.api import large_work
from server.api.large_work import (
    LARGE_UNITS,
    MAX_AT_ONCE,
    MAX_INLINE_UNITS,
    LargeWork,
    decode_large,
)
from server.errors import ApiError, ErrorKind


@pytest.mark.parametrize(
    ("num_units", "is_inline"),
    [(0, True), (MAX_INLINE_UNITS, True), (MAX_INLINE_UNITS + 1, False), (LARGE_UNITS + 1, False)],
)
async def test_only_short_work_runs_on_the_event_loop(num_units, is_inline):
    thread = await LargeWork().run(num_units, threading.get_ident)
    assert (thread == threading.get_ident()) is is_inline


async def test_few_large_pieces_run_at_once_also_when_clients_go(monkeypatch):
    """A thread goes on after its client's cancellation, so its slot must not be given away."""
    work, running, gate = LargeWork(), [], threading.Event()

    def piece() -> None:
        running.append(threading.get_ident())
        gate.wait(5)

    tasks = [asyncio.create_task(work.run(LARGE_UNITS + 1, piece)) for _ in range(6)]
    while len(running) < MAX_AT_ONCE:
        await asyncio.sleep(0.001)
    for task in tasks[:MAX_AT_ONCE]:
        task.cancel()
    await asyncio.sleep(0.05)
    assert len(running) == MAX_AT_ONCE
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(running) == len(tasks)


async def test_what_waits_is_bounded_and_leaves_room_again(monkeypatch):
    monkeypatch.setattr(large_work, "MAX_WAITING_UNITS", 3 * LARGE_UNITS)
    work, gate = LargeWork(), threading.Event()
    running = asyncio.create_task(work.run(2 * LARGE_UNITS, lambda: gate.wait(5)))
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await work.run(2 * LARGE_UNITS, lambda: None)
    assert caught.value.kind is ErrorKind.QUEUE_FULL
    gate.set()
    await running
    await work.run(2 * LARGE_UNITS, lambda: None)


async def test_memory_is_given_back_once_after_large_work(monkeypatch):
    returned = []
    monkeypatch.setattr(large_work, "_RETURN_AFTER_SECONDS", 0)
    monkeypatch.setattr(large_work, "return_free_memory", lambda: returned.append(1))
    for _ in range(3):
        large_work.memory_return.soon()
    await asyncio.sleep(0.05)
    assert returned == [1]


async def test_large_requests_are_decoded_one_at_a_time():
    inside, most = [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()

    await asyncio.gather(*(decode_large(work) for _ in range(5)))
    assert most == [1] * 5
