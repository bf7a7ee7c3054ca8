from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from server.__main__ import main
from tests.e2e.clients import Stream, client, read_stream, start_streams
from tests.e2e.servers import FAKE, is_running, wait_for


def end_of(pids):
    wait_for(lambda: not any(map(is_running, pids)), "the end of the processes")


async def test_two_api_processes_share_the_port_and_answer_alike(start):
    server = start(FAKE, "--api-processes=2").wait_ready(num_api_processes=2)
    assert len(server.children()) == 3
    async with client(server) as http:
        streams = await start_streams(http, 8, max_tokens=20)
        for stream, task in streams:
            await task
            assert len(stream.token_ids) == 20
    assert len({tuple(stream.token_ids) for stream, _ in streams}) > 1
    wait_for(lambda: server.metric("antipode_requests_total", outcome="length") == 8, "the count")
    # Both answer the engine's latest text, which stays the same once the busy window is over.
    wait_for(lambda: len({server.get("/metrics").text for _ in range(16)}) == 1, "one answer")
    api_processes = server.children("server.processes.api")
    server.terminate()
    assert server.wait_exit() == 0
    end_of(api_processes)


async def test_killing_the_main_process_leaves_none(start_ready):
    server = start_ready()
    children = server.children()
    assert len(children) == 2
    os.kill(server.pid, signal.SIGKILL)
    end_of(children)


@pytest.fixture
def short_folder():
    """A socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


async def test_what_a_killed_server_left_is_cleared_by_the_next(start_ready, short_folder):
    killed = start_ready(TMPDIR=str(short_folder))
    os.kill(killed.pid, signal.SIGKILL)
    killed.process.wait()
    [left] = short_folder.glob("antipode-*")
    start_ready(TMPDIR=str(short_folder))
    assert not left.exists()
    assert len(list(short_folder.glob("antipode-*"))) == 1


async def test_killing_the_main_process_takes_a_stopped_engine_along(start_ready):
    server = start_ready()
    children = server.children()
    os.kill(server.engine(), signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    end_of(children)


async def test_killing_the_main_process_during_the_start_leaves_none(start):
    server = start(FAKE, FAKE_LOAD_SECONDS="600")
    wait_for(lambda: len(server.children()) == 2, "two children")
    children = server.children()
    os.kill(server.pid, signal.SIGKILL)
    end_of(children)


async def test_a_killed_engine_ends_every_stream_with_an_error_and_the_server(start_ready):
    server = start_ready(FAKE_STEP_SECONDS="0.05")
    children = server.children()
    async with client(server) as http:
        streams = await start_streams(http, 8, max_tokens=1000)
        os.kill(server.engine(), signal.SIGKILL)
        for stream, task in streams:
            await task
            assert stream.error == "the engine process has ended"
            assert not stream.is_broken
    assert server.wait_exit() == 1
    end_of(children)
    assert server.logged("engine ended with signal SIGKILL")


async def test_a_killed_api_process_ends_the_server(start):
    server = start(FAKE, "--api-processes=2").wait_ready(num_api_processes=2)
    children = server.children()
    os.kill(server.children("server.processes.api")[0], signal.SIGKILL)
    assert server.wait_exit() == 1
    end_of(children)
    assert server.logged("ended with signal SIGKILL; stopping")


async def test_a_hung_engine_is_not_alive_until_it_goes_on(start_ready):
    server = start_ready("--hang-timeout-seconds=0.7")
    engine = server.engine()
    wait_for(lambda: server.get("/livez").status_code == 200, "green before")
    os.kill(engine, signal.SIGSTOP)
    wait_for(lambda: server.get("/livez").status_code == 503, "red")
    assert server.get("/readyz").status_code == 503
    assert server.get("/metrics").status_code == 200
    os.kill(engine, signal.SIGCONT)
    wait_for(lambda: server.get("/livez").status_code == 200, "green")
    wait_for(lambda: server.get("/readyz").status_code == 200, "ready again")


async def test_a_hung_api_process_ends_the_server(start):
    server = start(FAKE, "--api-processes=2", "--hang-timeout-seconds=2")
    server.wait_ready(num_api_processes=2)
    children = server.children()
    os.kill(server.children("server.processes.api")[1], signal.SIGSTOP)
    assert server.wait_exit() == 1
    end_of(children)
    assert server.logged("hangs: no beat for 2 s; killing it")


async def test_a_main_process_that_stood_still_judges_nobody(start_ready):
    server = start_ready("--hang-timeout-seconds=2")
    [api] = server.children("server.processes.api")
    for pid in (api, server.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(server.pid, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(api, signal.SIGCONT)
    time.sleep(2.0)
    assert server.get("/readyz").status_code == 200
    server.terminate()
    assert server.wait_exit() == 0


async def test_a_slow_start_is_alive_but_not_ready(start):
    server = start(FAKE, "--hang-timeout-seconds=2", FAKE_LOAD_SECONDS="600")

    def probe(path):
        try:
            return server.get(path)
        except httpx.ConnectError:
            return None

    def is_loading():
        answer = probe("/readyz")
        return answer is not None and answer.json().get("detail") == "loading weights" and answer

    answer = wait_for(is_loading, "the progress of loading", 60)
    body = answer.json()
    assert (answer.status_code, body["phase"], body["progress"]) == (503, "weights", 0.3)
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        assert server.get("/livez").status_code == 200
        time.sleep(0.05)
    assert server.metric("antipode_server_state", state="starting") == 1
    server.terminate()
    assert server.wait_exit() == 0


async def test_a_request_before_ready_is_refused_as_unavailable(start):
    server = start(FAKE, FAKE_LOAD_SECONDS="600")
    wait_for(lambda: len(server.children()) == 2, "two children")

    async def ask():
        async with client(server) as http:
            return await read_stream(http, Stream(), max_tokens=1)

    deadline = time.monotonic() + 60
    while (answer := await ask()).is_broken and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert answer.status == 503
    assert "still loading" in answer.error


@pytest.fixture
def own_logging():
    """The main process logs to the standard error of its test, which is closed after it."""
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:], logging.root.level = before


@pytest.mark.usefixtures("own_logging")
def test_a_taken_port_is_one_line_and_code_1(capfd, checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main(["serve", f"--model={checkpoint}", "--host=127.0.0.1", f"--http-port={port}"])
    assert code == 1
    assert capfd.readouterr().err == (
        f"antipode serve: 127.0.0.1:{port} is in use by another process; "
        "end that process or choose another --http-port\n"
    )


def test_a_second_server_on_the_same_ports_is_refused(start_ready, start):
    first = start_ready()
    port = first.http.rpartition(":")[2]
    second = start(FAKE, f"--http-port={port}")
    assert second.wait_exit() == 1
    assert "is in use by another process" in second.log_path.read_text()
    assert first.get("/readyz").status_code == 200
