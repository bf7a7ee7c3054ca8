"""A wakeup calls or wakes its one reader, once for each time that it becomes set."""

from __future__ import annotations

import asyncio

import pytest

from server.link.wakeup import Wakeup


def test_a_callback_is_called_once_until_it_is_cleared():
    wakeup, calls = Wakeup(), []
    with wakeup.calling(lambda: calls.append(1)):
        wakeup.set()
        wakeup.set()
        assert len(calls) == 1
        wakeup.clear()
        wakeup.set()
        assert len(calls) == 2


def test_a_callback_is_called_at_once_if_it_is_set():
    wakeup, calls = Wakeup(), []
    wakeup.set()
    with wakeup.calling(lambda: calls.append(1)):
        assert len(calls) == 1


def test_a_callback_that_has_left_is_not_called():
    wakeup, calls = Wakeup(), []
    with wakeup.calling(lambda: calls.append(1)):
        pass
    wakeup.set()
    assert calls == []


async def test_a_task_waits_until_it_is_set():
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    wakeup.set()
    await waiting
    await wakeup.wait()


async def test_a_task_that_no_longer_waits_disturbs_nobody():
    wakeup = Wakeup()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wakeup.wait(), 0.001)
    wakeup.set()
    await wakeup.wait()
