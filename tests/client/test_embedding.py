"""Embeddings over both transports: the same vectors, in batches, tried again where it can help."""

from __future__ import annotations

import numpy as np
import pytest
from antipode import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from antipode.embedding import BATCH, embed
from antipode.transports.embedding_bodies import read_embeddings
from antipode.types import EmbeddingRequest, Embeddings

from tests.api.fakes import hidden_state, small_pretrained
from tests.client.fake_server import FunctionEngine, fake_server
from tests.client.test_client import TRANSPORTS, in_thread

PATIENT = RetryPolicy(max_attempts=5, initial_backoff=0.001)
AT_ONCE = RetryPolicy(max_attempts=3, initial_backoff=0.001, max_backoff=0.001, stall_timeout=0.05)


@pytest.fixture(scope="module")
def server():
    with in_thread(FunctionEngine()) as server:
        yield server


def address(server, transport):
    return f"{transport}://{server.addresses[transport]}"


def unit(token_ids, size=None):
    vector = hidden_state(token_ids)[:size]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_texts_and_tokens_become_vectors(server, transport):
    with Client(address(server, transport)) as client:
        found = client.embed([(1, 2, 2), [4]], model="small", dimensions=3)
        texts, text, ids = client.embed(["hello", "o"]), client.embed("hello"), client.embed([5, 6])
    hello = unit(small_pretrained().encode("hello"))
    assert np.allclose(found.vectors, [unit([1, 2, 2], 3), unit([4], 3)])
    assert np.allclose(texts.vectors[0], hello)
    assert np.allclose(text.vectors, [hello])
    assert np.allclose(ids.vectors, [unit([5, 6])])
    assert (found.model, found.model_version, found.num_prompt_tokens) == ("small", "1", 4)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_inputs_are_sent_in_batches_and_come_in_their_order(transport):
    inputs = [(k % 4,) for k in range(BATCH + 3)]
    async with (
        fake_server(FunctionEngine()) as server,
        AsyncClient(address(server, transport)) as client,
    ):
        found = await client.embed(inputs)
    assert [int(np.argmax(vector)) for vector in found.vectors] == [k for (k,) in inputs]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refusal_is_the_callers_error(server, transport):
    with Client(address(server, transport)) as client:
        with pytest.raises(InvalidRequestError, match="must not be empty"):
            client.embed([""])
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            client.embed([(object(),)])
        with pytest.raises(InvalidRequestError, match="mixes texts and token ids"):
            client.embed(["a", (1,)])


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_is_gone_is_passed_over(transport):
    gone = f"{transport}://127.0.0.1:1"
    async with (
        fake_server(FunctionEngine()) as server,
        AsyncClient(gone, address(server, transport), retry=PATIENT) as client,
    ):
        assert len((await client.embed("hello")).vectors) == 1


async def test_a_silent_server_is_tried_again_and_a_deadline_ends_the_call():
    tries = []

    async def silent(request, timeout):
        tries.append(timeout)
        raise UnavailableError("gone")

    with pytest.raises(UnavailableError) as caught:
        await embed(silent, EmbeddingRequest(inputs=["a"]), AT_ONCE, None)
    assert (len(tries), caught.value.attempts) == (3, 3)
    with pytest.raises(DeadlineExceededError):
        await embed(silent, EmbeddingRequest(inputs=["a"]), AT_ONCE, 0.0)


async def test_vectors_of_two_versions_are_not_mixed():
    versions = iter("12")

    async def serve(request, timeout):
        vectors = [[1.0]] * len(request.inputs)
        return Embeddings(vectors=vectors, model_version=next(versions))

    with pytest.raises(ServerError, match="from version '1' to '2'"):
        await embed(serve, EmbeddingRequest(inputs=["a"] * (BATCH + 1)), AT_ONCE, None)


async def test_an_answer_of_too_few_vectors_is_malformed():
    async def serve(request, timeout):
        return Embeddings()

    with pytest.raises(ServerError, match="0 vectors for 1 inputs"):
        await embed(serve, EmbeddingRequest(inputs=["a"]), RetryPolicy(max_attempts=1), None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"data": [{"index": 0}], "model": "a", "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"index": 0, "embedding": "AAA"}], "model": "", "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"index": 0, "embedding": [1]}], "model": "", "usage": {"prompt_tokens": 1}}',
        b'{"data": [], "model": "a", "usage": null}',
    ],
)
def test_an_answer_that_is_none_is_a_fault_of_the_server(content):
    with pytest.raises(ServerError, match="malformed"):
        read_embeddings(content)
