"""A slice of several hosts, played by as many servers with CPU devices of their own.

They are one JAX mesh, whose collectives run over loopback.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.clients import client, start_streams
from tests.e2e.servers import REAL, first_free_port, is_running, plain_environment, wait_for

TINY = Path("models/tiny").resolve()
# What is configured, and what a busy machine takes to start and end processes.
BOUND_SECONDS = 4
SLACK_SECONDS = 10
REQUEST = {
    "prompt": ["one prompt", "another", "a third one, which is longer than a block of tokens"],
    "max_tokens": 40,
    "temperature": 0.8,
    "seed": 5,
    "ignore_eos": True,
    "return_token_ids": True,
}


def devices(count):
    """The environment of a host with so many devices."""
    flags = plain_environment()["XLA_FLAGS"]
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"}


def is_serving(server, version):
    line = rf'^antipode_model_version_serving{{.*version="{version}".*}} 1'
    return re.search(line, server.get("/metrics").text, re.MULTILINE)


@pytest.fixture
def start_group(start):
    """Start the hosts of a slice, the leader first, and wait until they serve.

    All of them share each layer, unless `tensor_size` are to.
    """

    def start_all(size, *flags, tensor_size=None):
        hosts = ",".join([f"127.0.0.1:{first_free_port(2)}", *["127.0.0.1"] * (size - 1)])
        group = [
            start(
                REAL,
                f"--hosts={hosts}",
                f"--host-index={index}",
                f"--group-timeout-seconds={BOUND_SECONDS}",
                f"--tensor-parallel-size={tensor_size or size}",
                "--dtype=float32",
                *flags,
                **devices(1),
            )
            for index in range(size)
        ]
        group[0].wait_ready()
        return group

    return start_all


def tokens(server):
    answer = server.post("/v1/completions", REQUEST | {"model": server.start_line["model"]})
    return [choice["token_ids"] for choice in answer.json()["choices"]]


def processes(servers):
    return [pid for server in servers for pid in (server.pid, *server.children())]


def wait_end(servers, pids):
    """Their exit codes, all within the bound; nothing of them is left."""
    since = time.monotonic()
    codes = [server.wait_exit(BOUND_SECONDS + SLACK_SECONDS) for server in servers]
    wait_for(lambda: not any(map(is_running, pids)), "the end of every process")
    assert time.monotonic() - since < BOUND_SECONDS + SLACK_SECONDS
    return codes


@pytest.mark.parametrize(("size", "tensor_size"), [(2, 2), (2, 1), (4, 2)])
def test_they_give_the_tokens_of_one_host(start, start_group, size, tensor_size):
    alone = start(REAL, "--dtype=float32", **devices(1)).wait_ready()
    expected = tokens(alone)
    alone.terminate()
    leader, *followers = start_group(size, tensor_size=tensor_size)
    assert tokens(leader) == expected
    assert all(follower.logged("loaded and warm") for follower in followers)
    for index in range(1, size):
        link = {"host_index": str(index), "network": "pod", "address": "127.0.0.1"}
        assert leader.metric("antipode_host_link_info", **link) == 1
    assert leader.metric("antipode_slice_info", hosts=str(size), chips=str(size)) == 1


@pytest.mark.parametrize(("policy", "tensor_size"), [("resource", 2), ("availability", 1)])
async def test_they_change_versions_and_drain_together(start_group, tmp_path, policy, tensor_size):
    config = tmp_path / "model.yaml"

    def serve(version):
        content = {"name": "tiny", "path": str(TINY), "version": version, "swap_policy": policy}
        config.write_text(yaml.safe_dump(content))

    serve("1")
    flags = (f"--model-config={config}", "--max-model-len=512")
    group = start_group(2, *flags, tensor_size=tensor_size)
    leader = group[0]
    first = await asyncio.to_thread(tokens, leader)
    serve("2")
    await asyncio.to_thread(wait_for, lambda: is_serving(leader, "2"), "version 2", 60)
    assert await asyncio.to_thread(tokens, leader) != first
    pids = processes(group)
    async with client(leader) as http:
        [(stream, task)] = await start_streams(
            http, 1, model="tiny", max_tokens=300, ignore_eos=True
        )
        for server in group:
            server.terminate()
        await task
    assert (stream.finish_reason, len(stream.token_ids)) == ("length", 300)
    assert await asyncio.to_thread(wait_end, group, pids) == [0, 0]


@pytest.mark.parametrize("process", ["engine", "main"])
@pytest.mark.parametrize("index", [0, 1])
async def test_one_that_is_killed_ends_all_of_them(start_group, index, process):
    group = start_group(2)
    pids = processes(group)
    async with client(group[0]) as http:
        [(stream, task)] = await start_streams(http, 1, max_tokens=2000)
        victim = group[index]
        os.kill(victim.engine() if process == "engine" else victim.pid, signal.SIGKILL)
        await task
    assert stream.finish_reason is None
    if index == 1:
        assert "its slice is not whole any more: host 1 is gone" in stream.error
    codes = await asyncio.to_thread(wait_end, group, pids)
    assert codes[1 - index] == 1
    assert all(codes)
    assert group[1 - index].logged(f"host {index} is gone")


@pytest.mark.parametrize("index", [0, 1])
def test_one_that_freezes_ends_the_other_within_the_bound(start_group, index):
    group = start_group(2)
    frozen, other = group[index], group[1 - index]
    pids = processes([other])
    os.kill(frozen.engine(), signal.SIGSTOP)
    assert wait_end([other], pids) == [1]
    assert other.logged(f"host {index} is gone: it has been silent for {BOUND_SECONDS} s")


def test_a_host_that_does_not_come_is_told(start):
    leader = start(
        REAL,
        f"--hosts=127.0.0.1:{first_free_port(2)},127.0.0.1",
        "--host-index=0",
        "--group-start-timeout-seconds=1",
    )
    assert leader.wait_exit() == 1
    assert leader.logged("1 of 2 hosts were here in time")


def test_a_checkpoint_that_one_host_cannot_read_ends_all(start, checkpoint, tmp_path):
    """All of them say which file it is, or whose fault."""
    hosts = f"--hosts=127.0.0.1:{first_free_port(2)},127.0.0.1"
    torn = tmp_path / "toy" / "1"
    torn.mkdir(parents=True)
    for file in checkpoint.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    (torn / "model.safetensors").write_bytes(b"\0" * 64)
    group = [start(REAL, hosts, f"--host-index={index}", model=torn) for index in (0, 1)]
    assert [server.wait_exit(60) for server in group] == [1, 1]
    assert any(server.logged("model.safetensors") for server in group)
