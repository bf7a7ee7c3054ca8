"""A real HTTP port around a small application, in a thread, for clients that write raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.servers.http_port import HttpPort
from server.config.server_config import ServerConfig
from server.files.tls_files import tls_files


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what it was sent, as JSON; at /stream in three pieces without a length.

    At /early it answers before it reads the body, at /fault not at all.
    """
    body, is_early = b"", scope["path"] == "/early"
    while not is_early:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/fault":
        raise RuntimeError("a fault")
    await _answer(scope, body, send)


async def _answer(scope: Scope, body: bytes, send: Send) -> None:
    seen = {"method": scope["method"], "path": scope["path"], "body": body.decode("latin-1")}
    seen["query"] = scope["query_string"].decode()
    data = json.dumps(seen).encode()
    streams = scope["path"] == "/stream"
    headers = [] if streams else [(b"content-length", b"%d" % len(data))]
    start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
    await send(start)
    for piece in (b"one ", b"two ", b"three") if streams else ():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if streams else data})


@dataclass(frozen=True)
class Edge:
    """A served port. Each exchange has a connection of its own."""

    address: tuple[str, int]
    port: HttpPort
    loop: asyncio.AbstractEventLoop

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def settle(self) -> None:
        """Wait until the server has taken in what was sent: each round looks at all sockets."""

        async def rounds() -> None:
            for _ in range(20):
                await asyncio.sleep(0.001)

        asyncio.run_coroutine_threadsafe(rounds(), self.loop).result()

    def exchange(self, *pieces: bytes) -> bytes:
        """What comes back until the server ends the connection."""
        with self.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            return read_to_end(client)

    def answers(self, *pieces: bytes) -> list[bytes]:
        """The whole responses, of which the last closes the connection."""
        return split_responses(self.exchange(*pieces))


@contextmanager
def served(app: ASGIApp = echo, **settings: object) -> Iterator[Edge]:
    """An application, by default the echo, behind a port with these settings."""
    loop = uvloop.new_event_loop()
    config = ServerConfig(**settings)  # type: ignore[arg-type]
    origins = config.cors_origins
    port = HttpPort(app, config, flush_seconds=1, cors_origins=origins, tls=tls_files(config))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = loop.create_task(port.serve(sockets=[listening]))
        thread = threading.Thread(target=loop.run_until_complete, args=(serving,))
        thread.start()
        try:
            yield Edge(listening.getsockname(), port, loop)
        finally:
            port.should_exit = True
            thread.join()
            loop.close()


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    return data


def read_response(client: socket.socket) -> bytes:
    """One response that has a length."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= length_of(head):
            return data
        piece = client.recv(1 << 16)
        assert piece, data
        data += piece


def split_responses(data: bytes) -> list[bytes]:
    """Responses one after another, each with a length."""
    responses = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = length_of(head)
        responses.append(head + b"\r\n\r\n" + rest[:length])
        data = rest[length:]
    return responses


def header_of(response: bytes, name: bytes) -> bytes:
    """The value of a header, b"" without one."""
    lines = response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    fields = dict(line.split(b": ", 1) for line in lines)
    return {key.lower(): value for key, value in fields.items()}.get(name, b"")


def length_of(head: bytes) -> int:
    [length] = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    return length


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def json_of(response: bytes) -> dict:
    return json.loads(response.partition(b"\r\n\r\n")[2])
