"""Addresses, the synchronous client, the command, and what importing it costs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest
from antipode import (
    AntipodeError,
    AsyncClient,
    Client,
    ClosedClientError,
    InvalidRequestError,
    RetryPolicy,
)
from antipode.command import main

from tests.client.fake_server import FunctionEngine, fake_server

TRANSPORTS = ("grpc", "http")


@pytest.fixture(scope="module")
def server():
    with in_thread(FunctionEngine()) as server:
        yield server


@contextmanager
def in_thread(engine):
    """A fake server on an event loop of its own, for clients that block."""
    loop, started, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    servers = []

    async def serve():
        async with fake_server(engine) as server:
            servers.append(server)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    yield servers[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost:9000", "write it as grpc://host:port"),
        ("ftp://localhost", "use grpc, grpcs, http or https"),
    ],
)
def test_an_address_that_is_none_is_refused(address, words):
    with pytest.raises(ValueError, match=words):
        AsyncClient(address)
    with pytest.raises(ValueError, match=words):
        Client(address)


def test_a_client_needs_an_address():
    with pytest.raises(ValueError, match="needs an address"):
        AsyncClient()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_without_asyncio_it_is_the_same(server, transport):
    address = f"{transport}://{server.addresses[transport]}"
    with Client(address, trust_env=False) as client:
        with client.generate("say it", max_tokens=9, seed=4) as stream:
            token_ids = [token_id for delta in stream for token_id in delta.token_ids]
        [choice] = client.generate("say it", max_tokens=9, seed=4).collect()
        assert choice.token_ids == token_ids
        assert (stream.start.seed, stream.usage.num_generated_tokens) == (4, 9)
        assert stream.num_resumed == stream.num_retries == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_options_mean_the_same_over_both_transports(server, transport):
    """The engine goes on to the end of its context of 1,024 tokens."""
    address = f"{transport}://{server.addresses[transport]}"
    with Client(address, trust_env=False) as client:
        [whole] = client.generate("say it", temperature=0).collect()
        stop = whole.text[3:6]
        [cut] = client.generate("say it", temperature=0, stop=stop).collect()
    assert len(whole.token_ids) == 1024 - len("say it")
    assert (cut.text, cut.stop_reason) == (whole.text.partition(stop)[0], stop)


@pytest.mark.parametrize(
    ("scheme", "port", "advice"),
    [
        ("grpc", "http", "use http:// or https://, or the gRPC port"),
        ("http", "grpc", "use grpc://, or the HTTP port"),
        ("https", "http", "does not speak TLS: use http://"),
        ("grpcs", "grpc", "does not speak TLS: use grpc://"),
    ],
)
def test_a_port_of_another_protocol_is_explained(server, scheme, port, advice):
    address, once = f"{scheme}://{server.addresses[port]}", RetryPolicy(max_attempts=1)
    with (
        Client(address, retry=once, trust_env=False) as client,
        pytest.raises(AntipodeError, match=advice),
    ):
        client.generate("x", max_tokens=1).collect()


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestUnusable:
    def test_a_closed_client_says_so_and_may_be_closed_again(self, server, transport):
        client = Client(f"{transport}://{server.addresses[transport]}", trust_env=False)
        stream = client.generate("say it", max_tokens=900)
        assert next(iter(stream)).text
        client.close()
        client.close()
        stream.close()
        with pytest.raises(ClosedClientError, match="this client is closed"):
            client.generate("say it", max_tokens=1).collect()
        with pytest.raises(ClosedClientError, match="this client is closed"):
            next(iter(stream))

    async def test_a_closed_client_says_so_in_asyncio(self, server, transport):
        client = AsyncClient(f"{transport}://{server.addresses[transport]}", trust_env=False)
        await client.aclose()
        with pytest.raises(ClosedClientError, match="this client is closed"):
            await client.generate("say it", max_tokens=1).collect()

    def test_a_thread_that_waits_is_told_of_the_end(self, server, transport):
        client = Client(f"{transport}://{server.addresses[transport]}", trust_env=False)
        has_begun = threading.Event()

        def read():
            with suppress(AntipodeError):
                for _ in client.generate("say it", max_tokens=900):
                    has_begun.set()

        reading = threading.Thread(target=read)
        reading.start()
        has_begun.wait(10)
        client.close()
        reading.join(10)
        assert not reading.is_alive()

    def test_a_client_of_the_process_before_the_fork_says_so(self, server, transport):
        address = f"{transport}://{server.addresses[transport]}"
        command = [sys.executable, "-c", FORKING, address]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert run.stdout.split("\n")[:2] == [
            "this client was made before the process was forked; make one in each process",
            "the first process goes on",
        ]


# A program of its own: JAX warns of every fork of a process that has imported it.
FORKING = """
import os, signal, sys
from antipode import Client, ClosedClientError

with Client(sys.argv[1], trust_env=False) as client:
    client.generate("say it", max_tokens=1).collect()
    if os.fork() == 0:
        signal.alarm(20)
        try:
            client.generate("say it", max_tokens=1).collect()
        except ClosedClientError as error:
            print(error, flush=True)
        client.close()
        os._exit(0)
    os.wait()
    client.generate("say it", max_tokens=1).collect()
    print("the first process goes on")
"""


def test_an_http_address_may_end_in_v1(server):
    with Client(f"http://{server.addresses['http']}/v1", trust_env=False) as client:
        assert client.generate("x", max_tokens=1).collect()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_leaving_early_and_failing_without_asyncio(server, transport):
    address = f"{transport}://{server.addresses[transport]}"
    with Client(address, trust_env=False) as client:
        with client.generate("say it", max_tokens=900) as stream:
            assert next(iter(stream)).text
        with pytest.raises(InvalidRequestError, match="temperature must be"):
            client.generate("say it", temperature=9.0).collect()


def test_the_command_prints_the_text_or_json(server, capsys):
    flags = ["--server", f"grpc://{server.addresses['grpc']}", "--max-tokens=7", "--seed=1"]
    assert main(["say it", *flags]) == 0
    text = capsys.readouterr().out
    assert main(["say it", "--json", *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == text.removesuffix("\n")
    assert (answer["start"]["seed"], answer["finish_reason"]) == (1, "length")


def test_the_command_says_what_was_wrong(server, capsys):
    address = f"grpc://{server.addresses['grpc']}"
    assert main(["x", "--server", address, "--temperature=9"]) == 1
    assert "temperature must be at least 0" in capsys.readouterr().err
    assert main(["x", "--server", "nonsense"]) == 2
    assert "is no address" in capsys.readouterr().err


def test_the_servers_command_has_it_too(server):
    flags = ["--max-tokens=3", f"--server=grpc://{server.addresses['grpc']}"]
    command = [sys.executable, "-m", "server", "generate", "x", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout) == 4


def test_the_client_needs_nothing_of_the_server():
    code = (
        "import sys, antipode, antipode.command;"
        "import antipode.transports.grpc_transport, antipode.transports.http_transport;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not {"jax", "numpy", "server", "models", "fastapi"} & set(done.stdout.split())
