"""The target of raw bytes on a connection: chunks, compression, requests in a row, torn heads.

Whatever comes, the server answers in whole responses or closes, and it never waits for what can no
longer come. Knows only how responses are framed.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib

import h11

from tests.fuzz.mutation import RIGHT, body, torn
from tests.fuzz.targets import SECONDS, Target

_LINES = (
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: br\r\n", b"X: a\n",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Host: t\r\n", b"X: " + b"a" * 70_000 + b"\r\n",
    b"x-request-timeout-ms: 0\r\n", b"x-request-id: \xff\r\n", b" folded\r\n", b": a\r\n",
)  # fmt: skip
_SIZES = (
    b"ffffffffffffffff",
    b"6400000",
    b"-1",
    b"0x5",
    b"",
    b"5;a=b",
    b"5" * 30,
    b"7fffffff",
    b"g",
)


def connection(address: str) -> Target:
    """`address` is HOST:PORT of the server."""
    host, _, port = address.rpartition(":")

    async def send(rng: random.Random) -> None:
        content = b"".join(_request(rng) for _ in range(rng.choice((1, 1, 1, 2, 5))))
        if rng.random() < 0.3:
            content = torn(rng, content)
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.timeout(SECONDS):
                answer = await _exchange(rng, reader, writer, content)
        except TimeoutError:
            raise AssertionError(f"no end of the answer to {content!r:.700}") from None
        finally:
            writer.close()
        _check(answer, content)

    return send


async def _exchange(
    rng: random.Random,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    content: bytes,
) -> bytes:
    """Send in pieces, end the sending side, and read to the end of the connection."""
    reading = asyncio.create_task(reader.read())
    try:
        cuts = sorted(rng.sample(range(len(content) + 1), min(2, len(content))))
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            writer.write(content[begin:end])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        return await reading
    except (ConnectionError, OSError):
        return b""
    finally:
        reading.cancel()


def _request(rng: random.Random) -> bytes:
    path = rng.choice([*RIGHT])
    content = body(rng, RIGHT[path])
    lines = [b"Host: s\r\n", b"Content-Type: application/json\r\n"]
    if rng.random() < 0.3:
        content = _compressed(rng, content)
        lines.append(b"Content-Encoding: gzip\r\n")
    if rng.random() < 0.4:
        lines.append(b"Transfer-Encoding: chunked\r\n")
        content = _chunks(rng, content)
    else:
        lines.append(b"Content-Length: %d\r\n" % len(content))
    lines += rng.choices(_LINES, k=rng.choice((0, 0, 0, 1, 2)))
    version = rng.choice((b"1.1",) * 8 + (b"1.0", b"2.0"))
    head = b"POST %s HTTP/%s\r\n" % (path.encode(), version)
    return head + b"".join(lines) + b"\r\n" + content


def _compressed(rng: random.Random, content: bytes) -> bytes:
    match rng.randrange(5):
        case 0:
            return gzip.compress(b"") * rng.choice((1, 100, 5000)) + gzip.compress(content)
        case 1:
            return zlib.compress(content)
        case 2:
            return gzip.compress(content)[: rng.randrange(20)]
        case 3:
            return gzip.compress(bytes(rng.choice((100, 1 << 20, 1 << 24))))
    return gzip.compress(content)


def _chunks(rng: random.Random, content: bytes) -> bytes:
    size = rng.choice((1, 7, 1000, 1 << 20))
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts[:5000]]
    if rng.random() < 0.3:
        chunks.insert(rng.randrange(len(chunks) + 1), rng.choice(_SIZES) + b"\r\nabcde\r\n")
    return b"".join(chunks) + rng.choice((b"0\r\n\r\n",) * 6 + (b"", b"0\r\nX: y\r\n\r\n"))


def _check(answer: bytes, content: bytes) -> None:
    """Whole responses, each in the shape of its kind, and nothing behind them."""
    words = f"{answer!r:.700} to {content!r:.700}"
    while answer:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="POST", target="/", headers=[("Host", "s")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(answer)
        parser.receive_data(b"")
        status, text = _response(parser, words)
        assert status < 500 or status in (501, 503, 505), words
        if status >= 400:
            assert "error" in json.loads(text), words
        answer = parser.trailing_data[0]


def _response(parser: h11.Connection, words: str) -> tuple[int, bytes]:
    """The status and the body. Only a stream may break off: its client ended within it."""
    status, text = 0, b""
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            assert not isinstance(event, h11.ConnectionClosed), words
            status = event.status_code if isinstance(event, h11.Response) else status
            text += event.data if isinstance(event, h11.Data) else b""
    except h11.RemoteProtocolError as error:
        if status != 200:
            raise AssertionError(f"{error}: {words}") from error
    return status, text
