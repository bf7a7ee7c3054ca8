"""Compressed bodies: read up to the limit of plain ones, or refused with what is accepted."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import pytest

from server.api.http.middleware.encodings import EncodingMiddleware
from tests.api.http_client import MAX_BODY_BYTES

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
