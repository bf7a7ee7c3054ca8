from __future__ import annotations

import asyncio

import pytest

from server.lifecycle import Lifecycle, ServerState, drain


@pytest.fixture
async def lifecycle():
    return Lifecycle()


@pytest.fixture
async def ready(lifecycle):
    lifecycle.mark_ready()
    return lifecycle


class Steps:
    """Records what `drain` asked for, and the state it asked it in."""

    def __init__(self, lifecycle):
        self.lifecycle = lifecycle
        self.taken = []

    def stop_accepting(self):
        self.taken.append(("stop_accepting", self.lifecycle.num_in_flight))

    def end_streams(self):
        self.taken.append(("end_streams", self.lifecycle.num_in_flight))

    def drain(self, lame_duck_seconds=0.0, drain_timeout_seconds=5.0):
        return asyncio.create_task(
            drain(
                self.lifecycle,
                lame_duck_seconds=lame_duck_seconds,
                drain_timeout_seconds=drain_timeout_seconds,
                stop_accepting=self.stop_accepting,
                end_streams=self.end_streams,
            )
        )


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_server_starts_neither_ready_nor_accepting(lifecycle):
    assert lifecycle.state is ServerState.STARTING
    assert not lifecycle.is_ready
    assert not lifecycle.is_accepting


async def test_ready_is_accepting(ready):
    assert ready.is_ready
    assert ready.is_accepting


async def test_draining_is_not_ready_but_accepts_until_told(ready):
    ready.begin_drain()
    assert not ready.is_ready
    assert ready.is_accepting
    ready.stop_accepting()
    assert not ready.is_accepting
    assert ready.state is ServerState.DRAINING


async def test_draining_before_ready_accepts_nothing(lifecycle):
    lifecycle.begin_drain()
    assert not lifecycle.is_accepting


async def test_a_late_ready_does_not_undo_a_drain(ready):
    ready.begin_drain()
    ready.mark_ready()
    assert ready.state is ServerState.DRAINING


async def test_a_second_drain_does_not_accept_again(ready):
    ready.begin_drain()
    ready.stop_accepting()
    ready.begin_drain()
    assert not ready.is_accepting


async def test_stopped_is_the_end(ready):
    ready.mark_stopped()
    ready.begin_drain()
    assert ready.state is ServerState.STOPPED
    assert not ready.is_accepting


async def test_listeners_hear_each_state_once_and_in_order(lifecycle):
    heard = []
    lifecycle.on_change(heard.append)
    lifecycle.mark_ready()
    lifecycle.mark_ready()
    lifecycle.begin_drain()
    lifecycle.mark_stopped()
    assert heard == [ServerState.READY, ServerState.DRAINING, ServerState.STOPPED]


async def test_in_flight_requests_are_counted_and_released_by_errors_too(ready):
    with ready.track(), ready.track():
        assert ready.num_in_flight == 2
    with pytest.raises(ValueError), ready.track():
        raise ValueError
    assert ready.num_in_flight == 0


async def test_wait_idle_is_immediate_with_nothing_in_flight(ready):
    assert await ready.wait_idle(0.01)


async def test_wait_idle_gives_up_after_its_timeout(ready):
    with ready.track():
        assert not await ready.wait_idle(0.01)


async def test_an_idle_server_drains_at_once(ready):
    steps = Steps(ready)
    await steps.drain()
    assert steps.taken == [("stop_accepting", 0)]
    assert not ready.is_accepting


async def test_the_lame_duck_still_accepts(ready):
    steps = Steps(ready)
    draining = steps.drain(lame_duck_seconds=0.05)
    await turns()
    assert not ready.is_ready
    assert ready.is_accepting
    await draining
    assert not ready.is_accepting


async def test_a_server_that_never_was_ready_skips_the_lame_duck(lifecycle):
    steps = Steps(lifecycle)
    await asyncio.wait_for(steps.drain(lame_duck_seconds=60), 5)


async def test_running_streams_may_finish(ready):
    steps = Steps(ready)
    with ready.track():
        draining = steps.drain()
        await turns()
        assert not draining.done()
    await draining
    assert steps.taken == [("stop_accepting", 1)]


async def test_streams_that_do_not_finish_in_time_are_ended(ready):
    steps = Steps(ready)
    with ready.track():
        draining = steps.drain(drain_timeout_seconds=0.01)
        while len(steps.taken) < 2:
            await asyncio.sleep(0.001)
    await draining
    assert steps.taken == [("stop_accepting", 1), ("end_streams", 1)]
