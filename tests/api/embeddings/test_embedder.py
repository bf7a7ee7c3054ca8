"""The embedder: which inputs are taken, what the engine is asked, and what becomes of its sums."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from server.api.embeddings.embedder import MAX_INPUTS
from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.requests.embedding import EmbeddingRequest, pool
from server.api.requests.validation import RequestLimits
from server.errors import ApiError, ErrorKind
from tests.api.fakes import FakeEngine, hidden_state, make_service

RECIPE = EmbeddingRecipe(size=4, prompts={"query": "ask: "})
SUMS = [np.array(part, "<f4").tobytes() for part in ([1, 2, 0, 2], [2, 2, 0, 2])]


def whole(vector):
    return vector


@pytest.fixture
def embedder(engine, tokenizer, lifecycle):
    return make_service(
        engine, tokenizer, lifecycle, RequestLimits(max_sequences=3), RECIPE
    ).embedder


async def refusal(embedder, *inputs, **fields):
    with pytest.raises(ApiError) as caught:
        await embedder.embed(EmbeddingRequest(inputs=inputs, **fields), whole)
    return caught.value


class TestPooling:
    def test_the_sums_of_all_chunks_are_one_vector(self):
        vector = pool(SUMS, 2, "last", dimensions=None, normalizes=True)
        assert vector.dtype == np.float32
        assert np.allclose(vector, np.array([3, 4, 0, 4]) / np.sqrt(41))

    def test_a_mean_is_over_the_tokens(self):
        vector = pool(SUMS, 2, "mean", dimensions=None, normalizes=False)
        assert vector.tolist() == [1.5, 2, 0, 2]

    def test_a_vector_is_cut_and_then_normalized(self):
        vector = pool(SUMS, 1, "last", dimensions=2, normalizes=True)
        assert np.allclose(vector, [0.6, 0.8])


async def test_every_input_is_asked_for_its_prompt_and_no_token(embedder, engine, tokenizer):
    found = await embedder.embed(EmbeddingRequest(inputs=("hello", (1, 2, 6)), source="a"), whole)
    asked = [(each.prompt_token_ids, each.params.max_tokens) for each in engine.submitted]
    assert asked == [(tokenizer.encode("hello"), 0), ([1, 2, 6], 0)]
    assert {(each.pooling, each.source) for each in engine.submitted} == {("last", "a")}
    vector = hidden_state([1, 2, 6]) / np.linalg.norm(hidden_state([1, 2, 6]))
    assert np.allclose(found.vectors[1], vector)
    assert (found.num_prompt_tokens, found.num_cached_tokens, found.version) == (4, 2, "1")
    assert engine.open == {}


async def test_only_so_many_inputs_wait_at_the_engine_at_once(embedder, engine):
    """A request must not fill the queue by itself; results come in the order of the inputs."""
    engine.script = None
    inputs = tuple((k,) for k in range(5))
    task = asyncio.create_task(embedder.embed(EmbeddingRequest(inputs=inputs), whole))
    while len(engine.submitted) < 3:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert len(engine.submitted) == 3
    for k in (2, 1, 0, 3, 4):
        while len(engine.submitted) <= k:
            await asyncio.sleep(0.001)
        engine.emit(to=k, finish_reason="stop", pooled=[hidden_state([k]).tobytes()])
    found = await task
    assert [int(np.argmax(vector)) for vector in found.vectors] == [0, 1, 2, 3, 0]


async def test_a_client_that_leaves_ends_what_is_open(embedder, engine):
    engine.script = None
    task = asyncio.create_task(embedder.embed(EmbeddingRequest(inputs=((1,), (2,))), whole))
    while len(engine.submitted) < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [reason for _, _, reason in engine.aborted] == ["abort", "abort"]
    assert engine.open == {}


async def test_an_error_of_one_input_is_the_requests_and_ends_the_others(embedder, engine):
    engine.script = None
    task = asyncio.create_task(embedder.embed(EmbeddingRequest(inputs=((1,), (2,))), whole))
    while len(engine.submitted) < 2:
        await asyncio.sleep(0.001)
    engine.emit(to=0, finish_reason="error", error="queue_full", message="full")
    with pytest.raises(ApiError, match="full") as caught:
        await task
    assert caught.value.kind is ErrorKind.QUEUE_FULL
    assert len(engine.aborted) == 1


async def test_a_deadline_holds_even_if_the_engine_is_silent(embedder, engine):
    engine.script = None
    error = await refusal(embedder, (1,), timeout_seconds=0.01)
    assert error.kind is ErrorKind.DEADLINE_EXCEEDED
    assert len(engine.aborted) == 1


@pytest.mark.parametrize(
    ("inputs", "fields", "words"),
    [
        ((), {}, "input must not be empty"),
        (("",), {}, "input must not be empty"),
        (("a", ()), {}, r"input\[1\] must not be empty"),
        (("a", "b" * 257), {}, r"maximum context length is 256 tokens, but input\[1\] has 257"),
        (((266,),), {}, "outside the vocabulary"),
        (("\ud800",), {}, "valid Unicode"),
        (("a",) * (MAX_INPUTS + 1), {}, "2049 entries; at most 2048"),
        (("a",), {"dimensions": 5}, "dimensions is 5; it must be at least 1 and at most 4"),
        (("a",), {"dimensions": 0}, "dimensions is 0"),
        (("a",), {"prompt_name": "passage"}, "the model names query"),
        (("a",), {"max_tokens": 0}, "truncate_prompt_tokens"),
        (((1,) * 256,) * 17, {}, "4352 tokens in all; at most 4096"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_and_counted(
    embedder, engine, inputs, fields, words
):
    error = await refusal(embedder, *inputs, **fields)
    assert error.kind is ErrorKind.INVALID_REQUEST
    with pytest.raises(ApiError, match=words):
        raise error
    assert engine.submitted == []
    assert engine.refused == ["invalid_request"]


async def test_a_context_may_be_full_because_no_token_follows(embedder, engine):
    await embedder.embed(EmbeddingRequest(inputs=((1,) * 256,)), whole)
    assert len(engine.submitted[0].prompt_token_ids) == 256


async def test_the_checkpoints_own_limit_of_a_text_holds(engine, tokenizer, lifecycle):
    recipe = EmbeddingRecipe(max_tokens=3)
    embedder = make_service(engine, tokenizer, lifecycle, recipe=recipe).embedder
    error = await refusal(embedder, "abcd")
    assert "maximum context length is 3 tokens" in error.message


async def test_inputs_are_cut_where_the_client_says_so(embedder, engine, tokenizer):
    await embedder.embed(EmbeddingRequest(inputs=("abcdef", (1, 2, 3)), max_tokens=2), whole)
    await embedder.embed(EmbeddingRequest(inputs=("x" * 5000,), max_tokens=-1), whole)
    asked = [each.prompt_token_ids for each in engine.submitted]
    assert asked == [tokenizer.encode("ab"), [1, 2], tokenizer.encode("x" * 256)]


async def test_a_named_prompt_is_put_before_texts(embedder, engine, tokenizer):
    request = EmbeddingRequest(inputs=("hello", (1,)), prompt_name="query")
    await embedder.embed(request, whole)
    asked = [each.prompt_token_ids for each in engine.submitted]
    assert asked == [tokenizer.encode("ask: hello"), [1]]


async def test_a_checkpoint_whose_recipe_is_refused_says_why(engine, tokenizer, lifecycle):
    recipe = EmbeddingRecipe(refusal="no embeddings: the module Dense")
    embedder = make_service(engine, tokenizer, lifecycle, recipe=recipe).embedder
    assert "the module Dense" in (await refusal(embedder, "a")).message


async def test_infinite_hidden_states_are_an_error_of_the_server(embedder, engine):
    engine.script = None
    task = asyncio.create_task(embedder.embed(EmbeddingRequest(inputs=((1,),)), whole))
    while not engine.submitted:
        await asyncio.sleep(0.001)
    engine.emit(finish_reason="stop", pooled=[np.array([np.nan, 1], "<f4").tobytes()])
    with pytest.raises(ApiError) as caught:
        await task
    assert caught.value.kind is ErrorKind.INTERNAL


async def test_nothing_is_embedded_while_the_server_starts_or_stops(tokenizer, lifecycle):
    engine = FakeEngine([])
    engine.info = None
    embedder = make_service(engine, tokenizer, lifecycle).embedder
    assert (await refusal(embedder, "a")).kind is ErrorKind.UNAVAILABLE
    lifecycle.begin_drain()
    lifecycle.stop_accepting()
    assert "shutting down" in (await refusal(embedder, "a")).message
