"""Compressed bodies: read up to the limit of plain ones, or refused with what is accepted."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import tracemalloc
import zlib

import pytest
from starlette.exceptions import HTTPException

from server.api.http.middleware.encodings import MAX_MEMBERS, EncodingMiddleware
from tests.api.http_client import MAX_BODY_BYTES
from tests.api.turns import watched_turns

BODY = json.dumps({"prompt": "hello", "max_tokens": 1, "padding": "x" * 5000}).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


async def post(client, content, encoding):
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    return await client.post("/v1/completions", content=content, headers=headers)


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY[:10]) + gzip.compress(BODY[10:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
    # Without names of theirs, the cases would be named by content, in which gzip has the time.
    ids=["gzip", "in capitals", "in two members", "deflate", "raw deflate", "identity", "none"],
)
async def test_a_compressed_body_is_read(client, engine, encoding, content):
    response = await post(client, content, encoding)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["text"]


async def test_a_body_that_comes_byte_by_byte_is_read(client):
    async def bytewise():
        for byte in gzip.compress(BODY):
            yield bytes([byte])

    assert (await post(client, bytewise(), "gzip")).status_code == 200


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "compress", "aes128gcm"])
async def test_another_encoding_is_refused_with_what_is_accepted(client, engine, encoding):
    response = await post(client, b"\x28\xb5\x2f\xfd", encoding)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip, deflate" in response.json()["error"]["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "content",
    [b"plain", gzip.compress(BODY)[:-1], gzip.compress(BODY)[:-9], gzip.compress(BODY) + b"x"],
    ids=["plain", "without its last byte", "without its trailer", "with a byte too many"],
)
async def test_a_damaged_body_is_refused(client, engine, content):
    response = await post(client, content, "gzip")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "the body is not valid gzip"
    assert engine.submitted == []


async def test_a_body_that_grows_over_the_limit_is_refused(client):
    response = await post(client, gzip.compress(b" " * (MAX_BODY_BYTES + 1)), "gzip")
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]


async def test_a_body_that_would_fill_the_memory_is_inflated_no_further_than_the_limit():
    """100 MB of zeros in 100 KB; an application that reads until it is refused."""
    messages = iter([{"type": "http.request", "body": gzip.compress(b"\0" * 100_000_000, 1)}])
    num_read = 0

    async def receive():
        return next(messages)

    async def app(scope, receive, send):
        nonlocal num_read
        while True:
            num_read += len((await receive())["body"])

    middleware = EncodingMiddleware(app, max_body_bytes=1_000_000)
    scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}
    tracemalloc.start()
    with pytest.raises(Exception, match="at most 1000000 bytes"):
        await middleware(scope, receive, None)
    assert num_read <= 1_000_000
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


async def inflated(encoding: str, body: bytes) -> bytes:
    """What an application reads of a body that came in one message."""
    return b"".join(await pieces(encoding, body))


async def pieces(encoding: str, body: bytes) -> list[bytes]:
    """What an application reads of a body that came in one message, piece by piece."""
    messages = iter([{"type": "http.request", "body": body}])
    read = []

    async def receive():
        return next(messages)

    async def app(scope, receive, send):
        more_body = True
        while more_body:
            message = await receive()
            read.append(message["body"])
            more_body = message["more_body"]

    scope = {"type": "http", "headers": [(b"content-encoding", encoding.encode())]}
    await EncodingMiddleware(app, max_body_bytes=1 << 26)(scope, receive, None)
    return read


@pytest.mark.parametrize(
    "member", [gzip.compress(b""), gzip.compress(b"x")], ids=["empty", "of one byte"]
)
async def test_a_body_of_more_members_than_may_be_is_refused(member):
    assert len(await inflated("gzip", member * MAX_MEMBERS)) <= MAX_MEMBERS
    with pytest.raises(HTTPException) as refusal:
        await inflated("gzip", member * (MAX_MEMBERS + 1))
    assert refusal.value.status_code == 400
    assert refusal.value.detail == f"a compressed body must have at most {MAX_MEMBERS} members"


def _empty_blocks(num_blocks: int) -> bytes:
    """A raw deflate body of stored blocks without a byte in them."""
    return b"\0\0\0\xff\xff" * num_blocks + b"\1\0\0\xff\xff"


def _noise(num_bytes: int) -> bytes:
    return random.Random(0).randbytes(num_bytes)


# Made where they are sent: they are large.
BODIES = {
    "empty members": lambda: ("gzip", gzip.compress(b"") * 400_000),
    "members of a byte": lambda: ("gzip", gzip.compress(b"x") * 400_000),
    "members of a block": lambda: ("gzip", gzip.compress(_noise(1 << 14)) * (MAX_MEMBERS - 1)),
    "empty blocks": lambda: ("deflate", _empty_blocks(1 << 21)),
    "zeros": lambda: ("deflate", zlib.compress(b"\0" * (1 << 25))),
    "stored": lambda: ("gzip", gzip.compress(_noise(1 << 24), compresslevel=0)),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_the_event_loop_has_its_turn_between_bounded_pieces_of_inflating(kind):
    encoding, body = BODIES[kind]()
    async with watched_turns() as turns:
        with contextlib.suppress(HTTPException):
            await pieces(encoding, body)
    assert turns.longest < 0.02


async def test_a_body_is_inflated_to_what_it_was():
    repeated, stored = _noise(1000) * 5000, _noise(1 << 24)
    assert await inflated("gzip", gzip.compress(repeated)) == repeated
    assert await inflated("gzip", gzip.compress(stored, compresslevel=0)) == stored
