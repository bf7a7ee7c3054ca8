"""A slice of several hosts, played by as many servers with CPU devices of their own.

They are one JAX mesh, whose collectives run over loopback, or over networks of their own where this
machine has namespaces for them. Starting a group takes a while, so each has a story and an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time

import pytest
import yaml
from safetensors.numpy import load_file

from models.checkpoint import manifest
from tests.e2e import networks
from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.clients import client, start_streams
from tests.e2e.conftest import starter
from tests.e2e.servers import (
    KEEPING,
    REAL,
    first_free_port,
    is_running,
    plain_environment,
    wait_for,
)
from tests.models import naive

# How long a host may be silent where one falls silent, and where none should: a busy machine may
# leave a host's processes waiting for seconds. And what it takes to end processes.
BOUND_SECONDS = 6
PATIENCE_SECONDS = 60
SLACK_SECONDS = 40
REQUEST = {
    "prompt": ["one prompt", "another", "a third one, which is longer than a block of tokens"],
    "max_tokens": 40,
    "temperature": 0.8,
    "seed": 5,
    "ignore_eos": True,
    "return_token_ids": True,
}

# Its rows are drawn again after the step, on every host, of the tokens that a grammar allows.
FORM = {
    "prompt": "flags = ",
    "max_tokens": 80,
    "temperature": 1.0,
    "seed": 6,
    "return_token_ids": True,
    "structured_outputs": {"regex": r"(true|false)( and (not )?(true|false)){4}"},
}

# A grammar too, which the API makes of the tool.
CALL = {
    "messages": [{"role": "user", "content": "find number 7"}],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "find",
                "parameters": {
                    "type": "object",
                    "properties": {"number": {"enum": [1, 7, 33]}},
                    "required": ["number"],
                    "additionalProperties": False,
                },
            },
        }
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 120,
    "temperature": 0,
    "return_token_ids": True,
}
NUM_RECEIVED = 7


def devices(count):
    """The environment of a host with so many devices."""
    flags = plain_environment()["XLA_FLAGS"]
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"}


LOOPBACK = networks.Loopback()
# The fewest programs: one of decodes, and one that prefills too.
SMALL = ("--max-num-seqs=2", "--max-num-batched-tokens=8", "--num-blocks=1024", "--block-size=16")


def is_serving(server, version):
    line = rf'^antipode_model_version_serving{{.*version="{version}".*}} 1'
    return re.search(line, server.get("/metrics").text, re.MULTILINE)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """All layers look back over a window, which ends within the prompts and their answers.

    It is the first of two published versions, which lie side by side.
    """
    folder = tmp_path_factory.mktemp("windowed") / "toy"
    fields = {"architectures": ["MistralForCausalLM"], "sliding_window": 24}
    for seed, version in enumerate("12"):
        publish(write_serving_checkpoint(folder / version, seed=seed, **fields))
    return folder / "1"


def publish(folder):
    """With what the weights say after a prompt that the window holds."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    prompt, found = [*range(40, 52)], []
    for _ in range(4):
        found.append(int(naive.forward(config, tensors, prompt + found)[-1].argmax()))
    golden = manifest.Golden(0.1, (manifest.GoldenPrompt(tuple(prompt), tuple(found)),))
    manifest.write(folder, golden)


@pytest.fixture
def secret_file(tmp_path):
    """A file with the secret of a group."""
    file = tmp_path / "secret"
    file.write_text("the secret of this group\n")
    return file


@pytest.fixture
def start_group(start, secret_file):
    """Start the hosts of a slice, the leader first, and wait until they serve.

    All of them share each layer, unless `tensor_size` are to. `apart` are their networks, and
    `bound` is how many seconds a host may be silent.
    """

    def start_all(size, *flags, tensor_size=None, apart=LOOPBACK, bound=PATIENCE_SECONDS):
        addresses = [apart.address(index) for index in range(size)]
        hosts = ",".join([f"{addresses[0]}:{first_free_port(2)}", *addresses[1:]])
        group = [
            start(
                KEEPING,
                f"--hosts={hosts}",
                f"--host-index={index}",
                f"--group-timeout-seconds={bound}",
                f"--group-secret-file={secret_file}",
                f"--tensor-parallel-size={tensor_size or size}",
                "--dtype=float32",
                *SMALL,
                *flags,
                namespace=apart.namespace(index),
                **devices(1),
            )
            for index in range(size)
        ]
        group[0].wait_ready()
        return group

    return start_all


@pytest.fixture(scope="module")
def alone(tmp_path_factory, checkpoint, compile_cache):
    """What one host answers: its tokens and an embedding."""
    with starter(tmp_path_factory.mktemp("alone"), checkpoint, compile_cache) as start:
        server = start(REAL, "--dtype=float32", **devices(1)).wait_ready()
        return tokens(server), embedding(server)


@pytest.fixture
def two_hosts():
    """Namespaces with the networks of two hosts."""
    if not networks.are_possible():
        pytest.skip("network namespaces need root and iproute2")
    with networks.Networks(2) as made:
        yield made


@pytest.fixture
def networks_of():
    """Make the networks of so many hosts; loopback where this machine makes none."""
    with contextlib.ExitStack() as stack:

        def make(size):
            if not networks.are_possible():
                return LOOPBACK
            return stack.enter_context(networks.Networks(size))

        yield make


def tokens(server):
    """Those of several free texts, of one that has a form, and of a tool call."""
    answers = [answer(server, "/v1/completions", body) for body in (REQUEST, FORM)]
    assert re.fullmatch(FORM["structured_outputs"]["regex"], answers[1]["choices"][0]["text"])
    answers.append(answer(server, "/v1/chat/completions", CALL))
    [call] = answers[2]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["number"] in (1, 7, 33)
    return [choice["token_ids"] for answer in answers for choice in answer["choices"]]


def answer(server, path, body):
    return server.post(path, body | {"model": server.start_line["model"]}).json()


def embedding(server):
    body = {"input": "one prompt, which is longer than a block of tokens"}
    return answer(server, "/v1/embeddings", body)["data"][0]["embedding"]


def rest(server, received):
    """What comes of the text that has a form to a client that has received these tokens."""
    begun = {"model_version": server.start_line["version"], "token_ids": [received]}
    body = FORM | {"model": server.start_line["model"], "stream": True, "resume": begun}
    lines = server.post("/v1/completions", body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return [token for choice in choices for token in choice.get("token_ids", [])]


def processes(servers):
    return [pid for server in servers for pid in (server.pid, *server.children())]


def wait_end(servers, pids):
    """Their exit codes, all within the bound; nothing of them is left."""
    since = time.monotonic()
    codes = [server.wait_exit(BOUND_SECONDS + SLACK_SECONDS) for server in servers]
    wait_for(lambda: not any(map(is_running, pids)), "the end of every process")
    assert time.monotonic() - since < BOUND_SECONDS + SLACK_SECONDS
    return codes


@pytest.mark.parametrize(
    ("size", "tensor_size", "frozen"),
    [(2, 2, 0), (2, 1, 1), (4, 2, 3)],
    ids=["2 share", "2 ranks", "2 ranks share"],
)
def test_several_hosts_give_the_tokens_of_one_host_until_one_of_them_freezes(
    alone, start_group, networks_of, size, tensor_size, frozen
):
    apart = networks_of(size)
    group = start_group(size, tensor_size=tensor_size, apart=apart, bound=BOUND_SECONDS)
    leader, *followers = group
    with apart.inside(0):
        whole, vector = alone
        assert tokens(leader) == whole
        formed = whole[len(REQUEST["prompt"])]
        assert rest(leader, formed[:NUM_RECEIVED]) == formed[NUM_RECEIVED:]
        assert embedding(leader) == pytest.approx(vector, abs=1e-5)
        assert all(follower.logged("loaded and warm") for follower in followers)
        for index in range(1, size):
            link = {"host_index": str(index), **apart.link(index)}
            assert leader.metric("antipode_host_link_info", **link) == 1
        assert leader.metric("antipode_slice_info", hosts=str(size), chips=str(size)) == 1

    others = [server for server in group if server is not group[frozen]]
    pids = processes(others)
    os.kill(group[frozen].engine(), signal.SIGSTOP)
    assert wait_end(others, pids) == [1] * len(others)
    silence = f"host {frozen} is gone: it has been silent for {BOUND_SECONDS} s"
    assert all(other.logged(silence) for other in others)


def test_all_hosts_end_when_the_cable_of_a_claimed_interface_is_pulled(start_group, two_hosts):
    """The other side of a pulled cable says nothing: no connection is closed."""
    group = start_group(2, apart=two_hosts, bound=BOUND_SECONDS)
    leader, follower = group
    with two_hosts.inside(0):
        assert leader.metric("antipode_host_link_info", **two_hosts.link(1)) == 1
        interface = {"interface": "eth1", "mtu": str(networks.CLAIMED_MTU), "default": "false"}
        assert leader.metric("antipode_network_interface_info", **interface) == 1
        pids = processes(group)
        two_hosts.cut(1, "eth1")
        assert wait_end(group, pids) == [1, 1]
    for server, other in ((leader, 1), (follower, 0)):
        assert server.logged(f"host {other} is gone: it has been silent for {BOUND_SECONDS} s")


@pytest.mark.parametrize(
    ("policy", "tensor_size", "dtypes", "told"),
    [
        ("resource", 2, ("--kv-dtype=int8", "--weight-dtype=int8"), (0, 1)),
        ("availability", 1, (), (1,)),
    ],
)
async def test_all_hosts_change_versions_and_drain_together(
    start_group, checkpoint, tmp_path, policy, tensor_size, dtypes, told
):
    """When all are told to end, or when the kubelet evicts one that follows."""
    config = tmp_path / "model.yaml"

    def serve(version):
        versions = {"name": "toy", "path": str(checkpoint.parent), "version": version}
        config.write_text(yaml.safe_dump(versions | {"swap_policy": policy}))

    serve("1")
    group = start_group(2, f"--model-config={config}", *dtypes, tensor_size=tensor_size)
    leader = group[0]
    first = await asyncio.to_thread(tokens, leader)
    serve("2")
    await asyncio.to_thread(wait_for, lambda: is_serving(leader, "2"), "version 2", 60)
    assert await asyncio.to_thread(tokens, leader) != first
    pids = processes(group)
    async with client(leader) as http:
        [(stream, task)] = await start_streams(
            http, 1, model="toy", max_tokens=300, ignore_eos=True
        )
        for index in told:
            group[index].terminate()
        await task
    assert (stream.finish_reason, len(stream.token_ids)) == ("length", 300)
    assert await asyncio.to_thread(wait_end, group, pids) == [0, 0]
    assert leader.logged("host 1 was told to end: all hosts drain")


def test_where_a_claimed_interface_leads_nowhere_they_use_the_pods(start_group, two_hosts):
    two_hosts.cut(1, "eth1")
    leader, follower = start_group(2, apart=two_hosts)
    assert follower.logged("host 0 cannot be reached over eth1: using the pod's network")
    with two_hosts.inside(0):
        link = {"network": "pod", "interface": "", "address": two_hosts.address(1)}
        assert leader.metric("antipode_host_link_info", host_index="1", **link) == 1


@pytest.mark.parametrize("process", ["engine", "main"])
@pytest.mark.parametrize("index", [0, 1])
async def test_a_host_that_is_killed_ends_all_of_them(start_group, index, process):
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


def test_hosts_apart_do_not_start_without_a_secret(start):
    """Before anything listens."""
    for index in (0, 1):
        server = start(REAL, "--hosts=192.0.2.1,192.0.2.2", f"--host-index={index}")
        assert server.wait_exit() == 1
        assert server.logged("group_secret_file is not set, so anyone who reaches the port")


def test_hosts_with_different_secrets_do_not_come_together(start, secret_file, tmp_path):
    another = tmp_path / "another"
    another.write_text("the secret of another group")
    hosts = f"--hosts=127.0.0.1:{first_free_port(2)},127.0.0.1"
    group = [
        start(
            REAL,
            hosts,
            f"--host-index={index}",
            f"--group-secret-file={secret}",
            "--group-start-timeout-seconds=3",
        )
        for index, secret in enumerate((secret_file, another))
    ]
    assert [server.wait_exit(60) for server in group] == [1, 1]
    assert group[0].logged("it says that it is host 1 but has another secret")
    assert group[1].logged("has not proved to be host 0")


def test_a_host_that_does_not_come_is_told(start):
    leader = start(
        REAL,
        f"--hosts=127.0.0.1:{first_free_port(2)},127.0.0.1",
        "--host-index=0",
        "--group-start-timeout-seconds=1",
    )
    assert leader.wait_exit() == 1
    assert leader.logged("only 1 of 2 hosts came in time")


def test_a_checkpoint_that_one_host_cannot_read_ends_all(start, checkpoint, tmp_path):
    """All of them say which file it is, or whose fault."""
    hosts = f"--hosts=127.0.0.1:{first_free_port(2)},127.0.0.1"
    torn = tmp_path / "toy" / "1"
    torn.mkdir(parents=True)
    for file in checkpoint.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    (torn / manifest.NAME).unlink()
    (torn / "model.safetensors").write_bytes(b"\0" * 64)
    group = [start(REAL, hosts, f"--host-index={index}", model=torn) for index in (0, 1)]
    assert [server.wait_exit(60) for server in group] == [1, 1]
    assert any(server.logged("model.safetensors") for server in group)
