"""Every place where bytes of others come in, and how one random thing is sent to it: the targets.

A target raises AssertionError where no clear answer comes back. Knows no server's inside.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
from antipode import AntipodeError, AsyncClient, DeadlineExceededError
from google.protobuf.message import Message

from server.pb.antipode.v1 import generation_pb2 as pb
from server.versions.model_file.model_file_watcher import ModelFileWatcher
from tests.fuzz.mutation import RIGHT, body, strange, torn

TOKEN = "fuzz"
SECONDS = 20.0

type Target = Callable[[random.Random], Awaitable[None]]

# UNKNOWN is an exception that nobody turned into an answer, INTERNAL a fault of the engine.
FAULTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
METHODS = (
    "/antipode.v1.Generation/Generate",
    "/antipode.v1.Generation/Tokenize",
    "/antipode.v1.Generation/Detokenize",
    "/antipode.v1.Generation/Embed",
    "/antipode.v1.Generation/Nothing",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/nothing",
)
OTHERS = (
    "/v2", "/v2/models/toy", "/v2/models/toy/versions/9/ready", "/v2/models/%00/config",
    "/v2/models/stats", "/openapi.json", "/docs", "/", "/v2/health/ready", "/version",
)  # fmt: skip
MODEL_FILE = b"name: tiny\npath: models/tiny\nversion: '1'\nlabels:\n  stable: '1'\n"
YAML_WORDS = (
    b"2026-01-01", b"!!binary aGk=", b"&a [*a]", b"*a", b"<<: *a", b"0x1f", b"1_000", b".nan", b"~",
    b"!!python/object:os.system", b"9" * 5000, b"1:2:3", b"- - - -", b"{a: b", b"? a", b"\xff\xfe",
    b"2026-13-45", b"!!int x", b"!!timestamp 5", b"!!set {a}", b"\t", b"---", b"'", b"\"\\x\"",
)  # fmt: skip


def http(client: httpx.AsyncClient) -> Target:
    """The endpoints of every protocol, with random bodies, paths, methods and types."""

    async def send(rng: random.Random) -> None:
        path = rng.choice([*RIGHT])
        content = body(rng, RIGHT[path])
        kind = rng.choice(("application/json",) * 6 + ("text/plain", "", "application/json; é"))
        method = "POST"
        if rng.random() < 0.1:
            method = rng.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "X"))
            path = rng.choice(
                (path, "/v1/models", "/v1/models/%00", "/metrics", "/nothing", "/%ff", *OTHERS)
            )
        headers = {"content-type": kind.encode("latin-1")}
        await _answered(client, method, path, content, headers)

    return send


def admin(client: httpx.AsyncClient) -> Target:
    """The admin endpoints, most of the time with the right token."""

    async def send(rng: random.Random) -> None:
        version = rng.choice(("2", "1", "x", "-1", "%2e%2e", "9" * 300, "%00", "٣"))
        act = rng.choice(("/load", "/promote", "/unload", "", "/nothing"))
        path = rng.choice((f"/versions/{version}{act}", "/rollback", "/versions"))
        token = TOKEN if rng.random() < 0.8 else rng.choice(("no", "wrong", "a b", "x" * 4000))
        right = {"path": f"/nowhere/{rng.randrange(9)}", "policy": "resource"}
        content = body(rng, right | {"max_tokens": 1}) if rng.random() < 0.5 else b""
        headers = {"authorization": f"Bearer {token}".encode()}
        await _answered(client, rng.choice(("GET", "POST")), path, content, headers)

    return send


async def _answered(
    client: httpx.AsyncClient, method: str, path: str, content: bytes, headers: dict[str, bytes]
) -> None:
    response = await client.request(method, path, content=content, headers=headers, timeout=SECONDS)
    status = response.status_code
    assert status < 500 or status == 503, (status, method, path, content[:500], response.text)


def grpc_calls(channel: grpc.aio.Channel) -> Target:
    """Random bytes and random messages for every method, and for methods that do not exist."""

    async def send(rng: random.Random) -> None:
        method = rng.choice(METHODS)
        content = message(rng) if rng.random() < 0.7 else torn(rng, message(rng))
        call = channel.unary_stream(method)(content, timeout=SECONDS)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            if error.code() in FAULTS:
                words = f"{error.code()}, {error.details()!r} for {method}, {content[:500]!r}"
                raise AssertionError(words) from error

    return send


def message(rng: random.Random) -> bytes:
    """A request of which some fields are strange."""
    request = pb.GenerateRequest(text=rng.choice(("", "abc", "\x00", "é" * 300)))
    request.sampling.max_tokens = rng.choice((0, 1, 2, 3))
    targets: list[Message] = [request, request.sampling]
    if rng.random() < 0.3:
        said = request.chat.messages.add(role="user", content="x")
        tool = request.chat.tools.add(name="f", parameters='{"type": "object"}')
        targets = [request.sampling, request.chat, said, tool, request.chat.tool_choice]
        if rng.random() < 0.3:
            said.content = ""
            part = said.parts.add()
            part.image.data = rng.randbytes(rng.randrange(50))
            targets += [part, part.image]
    for _ in range(rng.randint(0, 4)):
        target = rng.choice(targets)
        name = rng.choice([one.name for one in target.DESCRIPTOR.fields])
        if name == "max_tokens":
            continue
        try:
            value = strange(rng)
            current = getattr(target, name)
            current.extend(value) if hasattr(current, "extend") else setattr(target, name, value)
        except (TypeError, ValueError, AttributeError, OverflowError):
            continue
    return request.SerializeToString()


def model_file(folder: Path) -> Target:
    """The model configuration file of a watcher: what is wrong is told, what is right is followed.

    The watcher has no thread here, so that it looks when it should.
    """
    path, files, errors = folder / "model.yaml", [], [""]
    watcher = ModelFileWatcher(path, "tiny", files.append, errors.append)
    versions = itertools.count(1)

    async def send(rng: random.Random) -> None:
        content = wrong_model_file(rng)
        _put(rng.choice(FILE_KINDS), path, content)
        num_files = len(files)
        watcher.look()
        watcher.look()
        is_followed = len(files) > num_files
        assert is_followed or errors[-1] or content == MODEL_FILE, f"ignored {content[:300]!r}"
        version = str(next(versions))
        _put("file", path, MODEL_FILE.replace(b"version: '1'", f"version: '{version}'".encode()))
        watcher.look()
        watcher.look()
        assert files[-1].version == version, f"stopped after {content[:300]!r}"
        assert not errors[-1], errors[-1]

    return send


FILE_KINDS = ("file",) * 20 + ("folder", "fifo", "loop", "gone", "large", "socket")


def _put(kind: str, path: Path, content: bytes) -> None:
    """Put something of a kind in the file's place."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    match kind:
        case "file":
            path.write_bytes(content)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "large":
            path.touch()
            os.truncate(path, 100 << 20)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))


def wrong_model_file(rng: random.Random) -> bytes:
    """A model file of which one to three lines have another value, torn or not."""
    lines = MODEL_FILE.splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        key = lines[place].partition(b":")[0]
        lines[place] = key + b": " + rng.choice(YAML_WORDS) + b"\n"
    content = b"".join(lines)
    return torn(rng, content) if rng.random() < 0.3 else content


EVENTS = (
    b'data: {"choices":[{"index":0,"text":"a","token_ids":[1]}],"model_version":"1"}\n\n',
    b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n',
    b"data: [DONE]\n\n", b": comment\n\n", b"data: {}\n\n", b"data: null\n\n", b"data:\n\n",
    b'data: {"error":{"message":"m","type":"t"}}\n\n', b'data: {"error":5}\n\n', b"\n", b"\r\n\r\n",
    b'data: {"choices":[{"index":7}]}\n\n', b'data: {"choices":{}}\n\n', b"event: x\nid: 1\n\n",
    b'data: {"choices":[{"index":"0","token_ids":"x"}]}\n\n', b"data: \xff\xfe\n\n",
)  # fmt: skip
HEADS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
    b"HTTP/1.1 500 X\r\n", b"HTTP/1.1 429 X\r\nretry-after: x\r\n", b"HTTP/1.1 503 X\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n", b"HTTP/1.1 302 X\r\nlocation: /\r\n",
    b"HTTP/9.9 ?\r\n", b"\x00\x01\x02", b"HTTP/1.1 204 N\r\n", b"",
)  # fmt: skip


@dataclass(slots=True)
class WrongServer:
    """Answers each connection with the next random bytes."""

    rng: random.Random = field(default_factory=random.Random)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        events = b"".join(self.rng.choices(EVENTS, k=self.rng.randint(0, 6)))
        if self.rng.random() < 0.3:
            events = torn(self.rng, events)
        head = self.rng.choice((*HEADS[:1] * 8, *HEADS))
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"connection: close\r\n\r\n" + events)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def client(server: WrongServer, calls: AsyncClient) -> Target:
    """Our client against a server that answers anything: deltas, or an error of its own.

    The server closes every connection, so a call that its deadline ends has hung.
    """

    async def send(rng: random.Random) -> None:
        server.rng = rng
        try:
            # The client's own timeout must come first.
            async with (
                asyncio.timeout(2 * SECONDS),
                calls.generate("abc", timeout=SECONDS) as stream,
            ):
                async for _ in stream:
                    pass
        except DeadlineExceededError as error:
            raise AssertionError("the client waited for what could not come") from error
        except AntipodeError:
            return
        except Exception as error:
            raise AssertionError(f"the client raised {error!r}") from error

    return send
