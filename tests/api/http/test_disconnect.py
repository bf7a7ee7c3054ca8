"""Who may interrupt a block, and what it looks like from outside."""

from __future__ import annotations

import asyncio

import pytest

from server.api.http.disconnect import ClientGoneError, until_disconnect

GONE = {"type": "http.disconnect"}


def receiving(*messages: dict[str, object]):
    """An ASGI receive that has these, then nothing more."""
    waiting = list(messages)

    async def receive() -> dict[str, object]:
        if waiting:
            return waiting.pop(0)
        return await asyncio.Future()

    return receive


async def test_a_block_runs_to_its_end_while_the_client_stays():
    async with until_disconnect(receiving()):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_client_that_goes_cancels_the_block():
    with pytest.raises(ClientGoneError):
        async with until_disconnect(receiving({"type": "http.request"}, GONE)):
            await asyncio.Future()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_a_cancellation_from_elsewhere_stays_one():
    async def block() -> None:
        async with until_disconnect(receiving()):
            await asyncio.Future()

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_passes():
    with pytest.raises(KeyError):
        async with until_disconnect(receiving()):
            raise KeyError
