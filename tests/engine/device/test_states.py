"""Layers with a recurrent state, served: a sequence's tokens are those of transformers, however its
prompt was cut, whatever ran beside it, and whoever had its slot before.

Greedy tokens may differ only where the reference's two best candidates lie within 1e-3; such a
prompt is compared no further, and counted.
"""

from __future__ import annotations

import pytest

from server.link.sampling import SamplingParams
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
    runner, _ = base
    tokens = Session(*base).run(requests[::-1])
    check({(len(requests) - 1 - i, c): found for (i, c), found in tokens.items()})
    assert len(requests) > runner.kinds[0].num_blocks or len(requests) > SIZES["max_num_seqs"]


def test_steps_that_are_read_before_the_next_give_the_same(base, requests):
    check(Session(*base, overlap=False).run(requests))


def test_preempted_sequences_begin_again(base, requests):
    session = Session(*base, num_blocks=40)
    check(session.run(requests))
    assert session.observer.num_preempted > 0


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
