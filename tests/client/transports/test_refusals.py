"""What an error over HTTP says of the body that came with the status."""

from __future__ import annotations

import gzip

import pytest
from antipode.transports.refusals import sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no healthy upstream", "HTTP status 503: no healthy upstream"),
        (b"\n fault filter\r\n abort\n", "HTTP status 503: fault filter abort"),
        (b'{"error": {"message": "the queue is full"}}', "the queue is full"),
        (b'{"error": "the model is not ready"}', "the model is not ready"),
        (b'{"message": "no route", "code": 5}', "no route"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"error": {"code": 5}}', "HTTP status 503"),
        (b"[1, 2]", "HTTP status 503"),
        (b"<html><h1>503</h1></html>", "HTTP status 503"),
        (b"", "HTTP status 503"),
        (b"\xff\xfe", "HTTP status 503"),
        (b"a\0b", "HTTP status 503"),
        (b"[" * 50_000, "HTTP status 503: " + "[" * 300),
        (b"x" * 5000, "HTTP status 503: " + "x" * 300),
    ],
)
def test_one_sentence_whatever_the_body_holds(content, words):
    assert sentence(503, content, is_compressed=False) == words


def test_a_compressed_body_says_nothing():
    assert sentence(503, gzip.compress(b"no"), is_compressed=True) == "HTTP status 503"
