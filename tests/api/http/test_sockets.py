"""The application behind a real uvicorn, with clients that misbehave on the socket itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from tests.api.fakes import FakeEngine


@dataclass
class FakeClient:
    """A client that writes a request by hand and reads only when told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def post(self, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        self.writer.write(head.encode() + data)


@pytest.fixture
def engine() -> FakeEngine:
    """Says nothing by itself."""
    return FakeEngine(None, max_model_len=10**6)


@pytest.fixture
async def address(app) -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Accepted sockets inherit it: a client that does not read is felt early.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield listening.getsockname()
        server.should_exit = True
        await serving


@pytest.fixture
async def connection(address) -> AsyncIterator[FakeClient]:
    connecting = socket.socket()
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    connecting.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connecting, address)
    reader, writer = await asyncio.open_connection(sock=connecting)
    yield FakeClient(reader, writer)
    writer.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_client_that_vanishes_in_mid_stream(connection, engine, ids, lifecycle):
    connection.post({"prompt": "hello", "stream": True})
    await until(lambda: engine.submitted)
    engine.emit(ids("hello"))
    assert b"200 OK" in await connection.reader.readuntil(b"\r\n\r\n")
    assert b'"text":"hello"' in await connection.reader.readuntil(b"\n\n")
    connection.writer.transport.abort()
    await until(lambda: engine.aborted)
    await until(lambda: lifecycle.num_in_flight == 0)
    assert engine.open == {}


async def test_a_client_that_vanishes_while_it_waits(connection, engine, lifecycle):
    connection.post({"prompt": "hello"})
    await until(lambda: engine.submitted)
    connection.writer.transport.abort()
    await until(lambda: engine.aborted)
    await until(lambda: lifecycle.num_in_flight == 0)


async def test_a_client_that_reads_nothing(connection, engine, ids, lifecycle):
    """More text than the sockets between the two ends can hold, and nobody who reads it."""
    connection.writer.transport.pause_reading()
    connection.post({"prompt": "hello", "stream": True, "max_tokens": 900_000})
    await until(lambda: engine.submitted)
    for _ in range(3):
        engine.emit(ids("a") * 100_000)
        await until(lambda: engine.aborted or not engine.submitted[0].stream._events)
    await until(lambda: engine.aborted)
    assert engine.aborted == [(1, None, "abort")]
    await until(lambda: lifecycle.num_in_flight == 0)


async def test_a_kept_connection_serves_the_next_request(address, engine, ids):
    engine.script = [ids("a"), FakeEngine.EOS]
    async with httpx.AsyncClient(base_url=f"http://{address[0]}:{address[1]}") as client:
        for stream in (True, False, True):
            response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
            assert response.status_code == 200
            assert '"text":"a"' in response.text
    assert engine.aborted == []


async def test_a_refused_body_closes_the_connection(connection):
    connection.post({"prompt": "x" * 30_000})
    response = await connection.reader.read()
    assert response.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in response
