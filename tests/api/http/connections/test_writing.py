"""What one connection writes, and in how many pieces."""

import asyncio

import pytest

from server.api.http.connections.writing import JoinedWrites


class Transport:
    """Records each call that would be one system call."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls


@pytest.fixture
def transport() -> Transport:
    return Transport()


async def test_the_head_and_the_body_of_a_response_leave_at_once(transport):
    joined = JoinedWrites(transport, asyncio.get_running_loop())
    joined.write(b"head ")
    joined.write(b"body")
    await asyncio.sleep(0)
    assert transport.calls == [b"head body"]


async def test_each_turn_of_the_event_loop_writes_what_it_has(transport):
    joined = JoinedWrites(transport, asyncio.get_running_loop())
    for token in (b"one", b"two"):
        joined.write(token)
        await asyncio.sleep(0)
    assert transport.calls == [b"one", b"two"]


async def test_closing_sends_what_was_written_before(transport):
    joined = JoinedWrites(transport, asyncio.get_running_loop())
    joined.write(b"last")
    joined.close()
    await asyncio.sleep(0)
    assert transport.calls == [b"last", "close"]
    assert joined.is_closing()


async def test_to_a_client_that_left_before_the_next_turn_nothing_is_written(transport):
    """uvloop raises an error where a closed transport is written to."""
    joined = JoinedWrites(transport, asyncio.get_running_loop())
    joined.write(b"late")
    transport.close()
    await asyncio.sleep(0)
    assert transport.calls == ["close"]
