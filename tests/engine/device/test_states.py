"""Layers with a recurrent state, served: a sequence's tokens are those of transformers, however its
prompt was cut, whatever ran beside it, and whoever had its slot before.

Greedy tokens may differ only where the reference's two best candidates lie within 1e-3; such a
prompt is compared no further, and counted.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.link.sampling import SamplingParams
from tests.engine.device.test_exact import draws
from tests.engine.device.test_identity import Request, Session, build
from tests.golden import random_models, references

NAME = "qwen3_5"
MARGIN = 1e-3
SIZES = {"max_num_seqs": 6, "max_num_batched_tokens": 64, "block_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_models.write(NAME, tmp_path_factory.mktemp(NAME))


@pytest.fixture(scope="module")
def base(folder):
    return build(folder, **SIZES)


@pytest.fixture(scope="module")
def requests():
    greedy = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
    return [Request(prompt, greedy) for prompt in references.read(NAME).prompts]


def check(tokens):
    """Compare with the reference every prompt's greedy tokens; how many were close calls."""
    reference, close = references.read(NAME), 0
    for i, (expected, margins) in enumerate(
        zip(reference.greedy_ids.tolist(), reference.margins, strict=True)
    ):
        found = tokens[i, 0]
        assert len(found) == len(expected)
        if found != expected:
            at = next(
                j for j, pair in enumerate(zip(expected, found, strict=True)) if len({*pair}) > 1
            )
            assert margins[at] < MARGIN, (i, at)
            close += 1
    assert close <= 1


def test_tokens_are_those_of_the_reference(base, requests):
    check(Session(*base).run(requests))


def test_a_slot_keeps_nothing_of_who_had_it_before(base, requests):
    """More requests than slots, in another order, by the same programs and state."""
    tokens = Session(*base).run(requests[::-1])
    check({(len(requests) - 1 - i, c): found for (i, c), found in tokens.items()})
    assert len(requests) > SIZES["max_num_seqs"]


def test_steps_that_are_read_before_the_next_give_the_same(base, requests):
    check(Session(*base, overlap=False).run(requests))


def build_without_prefixes(base):
    """A session in which nothing is found."""
    session = Session(*base)
    for blocks in session.blocks:
        blocks.prefix_caching = False
    return session


def test_preempted_sequences_begin_again(base, requests):
    session = Session(*base, num_blocks=40)
    check(session.run(requests))
    assert session.observer.num_preempted > 0


def test_prompts_that_come_again_go_on_from_the_state_of_their_last_whole_block(base, requests):
    """Of as many prompts as there are states, all are found; of more, the last ones."""
    session, some = Session(*base), requests[: SIZES["max_num_seqs"]]
    first, again = session.run(some), session.run(some)
    assert again == first
    size = SIZES["block_size"]
    assert session.num_cached_tokens == sum((len(one.prompt) - 1) // size * size for one in some)
    check(session.run(requests))
    check(session.run(requests))


def test_what_prompts_begin_with_is_found_where_the_second_has_parted(base):
    """The first leaves a state at its own end only; the second leaves one where it parts."""
    common = [3 * i % 500 for i in range(100)]
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    requests = [Request([*common, *range(i, i + 30)], params) for i in range(4)]
    session = Session(*base)
    tokens, cached = zip(*(run_one(session, each) for each in requests), strict=True)
    assert cached == (0, 0, 96, 96)
    assert list(tokens) == [Session(*base).run([each]) for each in requests]


def test_a_conversation_goes_on_from_where_its_last_prompt_ended(base):
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    session, prompt, known, turns = Session(*base), [7 * i % 500 for i in range(75)], 0, []
    for _ in range(4):
        request = Request(prompt, params)
        tokens, num_cached = run_one(session, request)
        assert num_cached == known
        turns.append((request, tokens))
        known = (len(prompt) - 1) // SIZES["block_size"] * SIZES["block_size"]
        prompt = [*prompt, *tokens[0, 0], 11, 12, 13]
    assert all(Session(*base).run([request]) == tokens for request, tokens in turns)


def run_one(session, request):
    """Its tokens, and how many of its prompt were found. Sessions share a device: one at a time."""
    return session.run([request]), session.num_cached_tokens


def test_choices_of_one_request_begin_with_the_state_of_the_first(base):
    params = SamplingParams(max_tokens=16, temperature=1.0, seed=5, ignore_eos=True)
    prompt = [5 * i % 500 for i in range(40)]
    session = Session(*base)
    together = session.run([Request(prompt, params, n=3)])
    assert session.num_cached_tokens == 2 * 32
    alone = build_without_prefixes(base).run([Request(prompt, params, n=3)])
    assert together == alone


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_batched_tokens": 8},
        {"tensor_parallel_size": 2},
        {"tensor_parallel_size": 4},
        {"data_parallel_size": 2, "tensor_parallel_size": 2, "max_num_batched_tokens": 32},
    ],
    ids=str,
)
def test_chunks_and_meshes_give_the_same(folder, requests, settings):
    runner, config = build(folder, **(SIZES | settings))
    check(Session(runner, config).run(requests))


def test_exact_gives_the_same_bits_whatever_ran_beside(folder):
    """In bfloat16; resumed streams and preempted sequences too."""
    runner, config = build(folder, dtype="bfloat16", exact=True, **SIZES)
    prompts = references.read(NAME).prompts[5:18:2]
    params = SamplingParams(max_tokens=24, temperature=0.8, seed=3, ignore_eos=True, num_logprobs=0)
    requests = [Request(prompt, params) for prompt in prompts]
    alone = [draws(Session(runner, config), [each])[0] for each in requests]
    assert draws(Session(runner, config), requests) == alone
    few = Session(runner, config, num_blocks=24)
    assert draws(few, requests) == alone
    assert few.observer.num_preempted > 0
    resumed = [
        replace(each, received=[[token for token, _ in tokens[: 3 * i + 1]]])
        for i, (each, tokens) in enumerate(zip(requests, alone, strict=True))
    ]
    rests = [tokens[3 * i + 1 :] for i, tokens in enumerate(alone)]
    assert draws(Session(runner, config), resumed) == rests


def test_eight_bits_serve_states_beside_them(folder, requests):
    """Matrices and keys in int8 move no token far: most are those of float32."""
    runner, config = build(folder, weight_dtype="int8", kv_dtype="int8", **SIZES)
    few = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    some = [replace(each, params=few) for each in requests[:8]]
    session = Session(runner, config)
    first, again = session.run(some), session.run(some)
    assert again == first
    assert session.num_cached_tokens > 0
    expected = references.read(NAME).greedy_ids[:8, 0].tolist()
    assert sum(first[i, 0][0] == token for i, token in enumerate(expected)) >= 6
