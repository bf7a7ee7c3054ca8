"""Embed: the embedder's answer in messages, and its refusals as statuses."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine, hidden_state
from tests.api.grpc.serving import ids, serving

HELLO = pb.EmbedInput(text="hello")


async def test_texts_and_tokens_become_vectors():
    engine = FakeEngine([[]])
    inputs = [HELLO, pb.EmbedInput(token_ids=pb.TokenIds(ids=[1, 2, 2]))]
    async with serving(engine) as s:
        answer = await s.stub.Embed(pb.EmbedRequest(inputs=inputs, request_id="r"))
    for entry, token_ids in zip(answer.embeddings, (ids("hello"), [1, 2, 2]), strict=True):
        expected = hidden_state(token_ids)
        assert np.allclose(entry.values, expected / np.linalg.norm(expected))
    assert (answer.request_id, answer.model, answer.model_version) == ("r", "small", "1")
    assert (answer.num_prompt_tokens, answer.num_cached_tokens) == (4, 2)
    assert {each.pooling for each in engine.submitted} == {"last"}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (pb.EmbedRequest(), grpc.StatusCode.INVALID_ARGUMENT, "inputs must not be empty"),
        (pb.EmbedRequest(inputs=[pb.EmbedInput()]), grpc.StatusCode.INVALID_ARGUMENT, "neither"),
        (
            pb.EmbedRequest(inputs=[HELLO], max_tokens=0),
            grpc.StatusCode.INVALID_ARGUMENT,
            "truncate_prompt_tokens",
        ),
        (pb.EmbedRequest(inputs=[HELLO], model="no"), grpc.StatusCode.NOT_FOUND, "does not exist"),
    ],
)
async def test_what_cannot_be_embedded_ends_with_a_status(request_, code, words):
    async with serving(FakeEngine([[]])) as s:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await s.stub.Embed(request_)
    assert caught.value.code() is code
    assert words in caught.value.details()
