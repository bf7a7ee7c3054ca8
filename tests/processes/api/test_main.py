"""Commands of the main process on the event loop of an API process."""

from __future__ import annotations

import asyncio

from server.processes.api.__main__ import commands_on


def test_a_command_reaches_the_loop_that_runs():
    told = []

    async def run():
        commands_on(asyncio.get_running_loop(), told.append)("drain")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert told == ["drain"]


def test_a_command_after_the_loops_end_is_no_fault():
    told, loop = [], asyncio.new_event_loop()
    loop.close()
    commands_on(loop, told.append)("stop")
    assert told == []
