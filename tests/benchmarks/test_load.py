"""Loads of a small OpenAI-compatible server: how many requests run at once, and what is read."""

from __future__ import annotations

import asyncio
import threading
from itertools import islice

import pytest

from benchmarks.load.loops import closed, opened
from benchmarks.load.stream import StreamError
from benchmarks.load.target import Target
from benchmarks.load.workloads import WORKLOADS, bodies
from tests.benchmarks.small_server import PARTS, FakeServer


def prompts(count, text="good"):
    return iter([{"model": "small", "prompt": text}] * count)


def test_a_closed_loop_keeps_so_many_streams_running(small_server):
    FakeServer.running = threading.Barrier(3)  # Fewer at once would wait in vain.
    streams = asyncio.run(closed(small_server, prompts(6), streams=3, requests=6))
    assert len(streams) == 6
    assert {(one.num_tokens, one.num_prompt_tokens) for one in streams} == {(6, 4)}
    assert all(len(one.part_times) == PARTS for one in streams)


def test_an_open_loop_does_not_wait_for_answers(small_server):
    FakeServer.running = threading.Barrier(4)
    streams = asyncio.run(opened(small_server, prompts(4), per_second=1000, requests=4, seed=1))
    assert len(streams) == 4


def test_a_refused_request_ends_the_load_with_the_servers_answer(small_server):
    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(closed(small_server, prompts(1, text="bad"), streams=1, requests=1))
    assert isinstance(raised.value.exceptions[0], StreamError)
    assert '400: {"error": "no"}' in str(raised.value.exceptions[0])


def test_a_peer_at_a_url_is_known_by_its_first_model_and_not_by_its_processes(
    small_server, tmp_path
):
    with Target("peer", f"{small_server}/v1", tmp_path / "log") as target:
        assert (target.url, target.model) == (small_server, "small")
        assert target.cpu_seconds() is None
        assert target.memory_bytes() is None


def test_a_command_that_ends_is_reported_with_its_log(tmp_path):
    log = tmp_path / "peer.log"
    with (
        pytest.raises(SystemExit, match="exited with 3; its output is in"),
        Target("peer", "sh -c 'echo broken; exit 3'", log),
    ):
        pass
    assert log.read_text() == "broken\n"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_is_asked_in_one_of_the_two_forms(small_server, workload):
    asked = list(islice(bodies(workload, 5, seed=1), 2))
    asyncio.run(closed(small_server, iter(asked), streams=1, requests=2))
    forms = {"prompt": "/v1/completions", "messages": "/v1/chat/completions"}
    assert [path for path, _ in FakeServer.asked] == [forms[next(iter(body))] for body in asked]
    assert asked[0] != asked[1]
