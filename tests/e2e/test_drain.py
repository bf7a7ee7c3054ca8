from __future__ import annotations

import asyncio
import os
import signal

import pytest

from server.child_processes import DRAIN_SIGNAL
from tests.e2e.clients import Stream, client, read_stream, start_streams
from tests.e2e.servers import FAKE, WAIT_SECONDS, wait_for


def is_draining(server):
    answer = server.get("/readyz")
    return answer.status_code == 503 and answer.json()["state"] == "draining"


async def test_an_idle_server_ends_at_once_with_code_0(start_ready):
    server = start_ready()
    server.terminate()
    assert server.wait_exit() == 0


@pytest.fixture
def start_with_default(start_ready):
    """Start a server that inherits the default action for a signal, as from a shell.

    A process inherits what is ignored, and a server ignores SIGHUP then, as under nohup. What
    ignores it in a process of tests may be no Python: libtpu does when it compiles.
    """

    def start_one(number):
        before = signal.signal(number, signal.SIG_DFL) or signal.SIG_DFL
        try:
            return start_ready()
        finally:
            signal.signal(number, before)

    return start_one


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
async def test_every_signal_that_asks_for_the_end_drains(start_with_default, number):
    server = start_with_default(number)
    os.kill(server.engine(), number)
    os.kill(server.children("server.processes.api")[0], number)
    server.process.send_signal(number)
    assert server.wait_exit() == 0
    assert server.logged("draining")


@pytest.fixture
def hold(tmp_path):
    """A file that holds the engine's steps while it is there."""
    return tmp_path / "hold"


async def test_running_streams_finish_and_new_requests_are_refused(start_ready, hold):
    server = start_ready("--drain-timeout-seconds=120", FAKE_HOLD=str(hold))
    async with client(server) as http:
        streams = await start_streams(http, 8, max_tokens=100)
        hold.touch()
        server.terminate()
        await asyncio.to_thread(wait_for, lambda: is_draining(server), "not ready")
        refused = await read_stream(http, Stream(), max_tokens=1)
        assert refused.status == 503
        assert refused.error == "the server is shutting down"
        assert server.get("/livez").status_code == 200
        wait_for(lambda: server.metric("antipode_draining") == 1, "the metric")
        hold.unlink()
        for stream, task in streams:
            await task
            assert (len(stream.token_ids), stream.finish_reason) == (100, "length")
            assert stream.is_done
    assert server.wait_exit() == 0


async def test_the_lame_duck_still_accepts(start_ready):
    server = start_ready("--lame-duck-seconds=5", FAKE_STEP_SECONDS="0.001")
    server.terminate()
    await asyncio.to_thread(wait_for, lambda: is_draining(server), "not ready")
    async with client(server) as http:
        late = await read_stream(http, Stream(), max_tokens=5)
    assert (late.status, late.finish_reason) == (200, "length")
    assert server.wait_exit() == 0


async def test_streams_that_do_not_finish_in_time_end_with_an_error(start_ready):
    server = start_ready("--drain-timeout-seconds=0.3", FAKE_STEP_SECONDS="0.05")
    async with client(server) as http:
        streams = await start_streams(http, 4, max_tokens=1000)
        server.terminate()
        for stream, task in streams:
            await task
            assert stream.error == "the server is stopping"
            assert not stream.is_broken
    assert server.wait_exit() == 0


async def test_an_idle_connection_is_closed_by_the_drain(start_ready, hold):
    server = start_ready("--drain-timeout-seconds=120", FAKE_HOLD=str(hold))
    host, _, port = server.http.removeprefix("http://").rpartition(":")
    async with client(server) as http:
        [(_, task)] = await start_streams(http, 1, max_tokens=100)
        hold.touch()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        server.terminate()
        await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        assert not task.done()
        writer.close()
        hold.unlink()
        await task
    assert server.wait_exit() == 0


async def test_a_signal_after_the_engine_asked_for_a_drain_is_the_first(start_ready, hold):
    """As when the hosts of a slice are all told to end, one after another."""
    server = start_ready("--drain-timeout-seconds=120", FAKE_HOLD=str(hold))
    async with client(server) as http:
        [(stream, task)] = await start_streams(http, 1, max_tokens=100)
        hold.touch()
        os.kill(server.pid, DRAIN_SIGNAL)
        await asyncio.to_thread(wait_for, lambda: is_draining(server), "not ready")
        server.terminate()
        hold.unlink()
        await task
    assert (len(stream.token_ids), stream.finish_reason) == (100, "length")
    assert server.wait_exit() == 0


async def test_a_second_signal_ends_at_once(start_ready):
    server = start_ready("--drain-timeout-seconds=60", FAKE_STEP_SECONDS="0.05")
    async with client(server) as http:
        [(stream, task)] = await start_streams(http, 1, max_tokens=1000)
        server.terminate()
        await asyncio.to_thread(wait_for, lambda: is_draining(server), "not ready")
        server.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(server.wait_exit, 30) == 130
        await task
        assert stream.finish_reason is None


async def test_a_signal_during_the_start_ends_with_code_0(start):
    server = start(FAKE, FAKE_LOAD_SECONDS="600")
    wait_for(lambda: server.logged("loading weights"), "loading")
    server.process.send_signal(signal.SIGINT)
    assert server.wait_exit() == 0


async def test_draining_a_hung_engine_ends_streams_and_exits(start_ready):
    server = start_ready("--drain-timeout-seconds=0.3", FAKE_STEP_SECONDS="0.05")
    async with client(server) as http:
        [(stream, task)] = await start_streams(http, 1, max_tokens=1000)
        os.kill(server.engine(), signal.SIGSTOP)
        server.terminate()
        await task
        assert stream.error == "the server is stopping"
    assert server.wait_exit() == 0
    assert server.logged("engine did not end in time")
