"""The embedding of a prompt is the oracle's, whatever else runs: the real engine on a real model.

The oracle computes in float64; the engine in float32, where two ways to add differ by rounding.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from server.link.sampling import SamplingParams
from tests.engine.device.test_identity import (
    CHECKPOINT,
    Request,
    Session,
    build,
    make_request,
)
from tests.models import naive

CLOSE = 1e-5
LENGTHS = (1, 16, 33, 90)
# Few and small programs, because their compilation is most of what these tests cost.
SIZES = {"max_num_seqs": 2, "max_num_batched_tokens": 32}
OTHERS = [make_request(0, 40, max_tokens=8, temperature=0.0), make_request(100, 33, max_tokens=8)]
POOLINGS = ("last", "mean", "cls")
NOTHING = SamplingParams(max_tokens=0)


def embedding_requests():
    return [
        Request(make_request(11 * length, length).prompt, NOTHING, pooling=pooling)
        for length in LENGTHS
        for pooling in POOLINGS
    ]


def normalised(vector):
    return vector / np.linalg.norm(vector)


def embed(session, others=()):
    """The embeddings of all requests, run together with `others`."""
    requests = embedding_requests()
    session.run([*requests, *others])
    found = {}
    for event in (event for frame in session.frames for event in frame.events):
        if event.request_id < len(requests):
            assert (event.token_ids, event.finish_reason) == ([], "stop")
            parts = [np.frombuffer(part, "<f4") for part in event.pooled]
            found[event.request_id] = normalised(np.sum(parts, axis=0, dtype=np.float64))
    return [found[i] for i in range(len(requests))]


@pytest.fixture(scope="module")
def base():
    return build(**SIZES)


@pytest.fixture(scope="module")
def expected():
    tensors = load_file(CHECKPOINT / "model.safetensors")
    config = json.loads((CHECKPOINT / "config.json").read_text())
    vectors = []
    for request in embedding_requests():
        states = naive.hidden(config, tensors, request.prompt)
        pooled = {"last": states[-1], "mean": states.mean(axis=0), "cls": states[0]}
        vectors.append(normalised(pooled[request.pooling]))
    return vectors


@pytest.fixture
def check(expected):
    def compare(found):
        for vector, reference, request in zip(found, expected, embedding_requests(), strict=True):
            error = np.abs(vector - reference).max()
            assert error < CLOSE, (request.pooling, len(request.prompt), error)

    return compare


def test_one_by_one_and_together_in_chunks_it_is_the_oracles(base, check):
    """A step has 32 tokens, so the longer prompts take several."""
    check(embed(Session(*base)))
    check([embed_one(Session(*base), request) for request in embedding_requests()])


def embed_one(session, request):
    session.run([request])
    [event] = [event for frame in session.frames for event in frame.events]
    return normalised(np.sum([np.frombuffer(p, "<f4") for p in event.pooled], axis=0))


def test_an_embedding_is_the_same_next_to_requests_for_tokens_and_leaves_these_as_they_are(
    base, check
):
    tokens = Session(*base).run(OTHERS)
    session, count = Session(*base), len(embedding_requests())
    check(embed(session, OTHERS))
    found = {}
    for event in (event for frame in session.frames for event in frame.events):
        if event.request_id >= count:
            found.setdefault((event.request_id - count, event.index), []).extend(event.token_ids)
    assert found == tokens


def test_a_prefix_is_found_for_the_last_token_and_computed_again_for_all_tokens(base, check):
    session = Session(*base)
    embed(session)
    check(embed(session))
    cached = {}
    for event in (event for frame in session.frames for event in frame.events):
        pooling = embedding_requests()[event.request_id].pooling
        cached[pooling] = cached.get(pooling, 0) + event.num_cached_tokens
    assert cached["last"] >= sum((length - 1) // 16 * 16 for length in LENGTHS)
    assert (cached["mean"], cached["cls"]) == (0, 0)


def test_an_embedding_is_the_same_on_data_ranks_of_several_devices(check):
    runner, config = build(data_parallel_size=2, tensor_parallel_size=2, **SIZES)
    assert runner.num_ranks == 2
    check(embed(Session(runner, config), OTHERS))
