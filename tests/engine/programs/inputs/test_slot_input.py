"""What a slot is set to when a sequence takes it, and which sequences need that."""

from __future__ import annotations

import pytest

from server.engine.programs.inputs.slot_input import (
    SlotSizes,
    empty_slot,
    needs_slot_state,
    pack_slot,
)
from tests.engine.builders import make_sequence
from tests.engine.programs.rows import make_row

SLOT_SIZES = SlotSizes(max_model_len=8, max_biases=3, max_stop_ids=2)


@pytest.mark.parametrize(
    ("params", "needed"),
    [
        ({}, False),
        ({"presence_penalty": -0.5}, True),
        ({"frequency_penalty": 0.5}, True),
        ({"repetition_penalty": 0.5}, True),
        ({"logit_bias": {1: 0.0}}, True),
        ({"min_tokens": 1}, True),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 9, "num_logprobs": 3}, False),
        ({"stop_token_ids": (4,)}, False),
    ],
)
def test_only_penalties_biases_and_a_minimum_length_need_state(params, needed):
    assert needs_slot_state(make_sequence([1], **params)) == needed


def test_an_empty_slot_holds_nothing():
    slot = empty_slot(SLOT_SIZES, 1, 3)
    assert slot.slot == 3
    for ids, size in ((slot.prompt_ids, 8), (slot.output_ids, 8), (slot.stop_ids, 2)):
        assert ids.tolist() == [-1] * size
    assert slot.bias_ids.tolist() == [-1] * 3
    assert slot.bias_values.tolist() == [0.0] * 3


def test_a_sequences_tokens_are_told_apart_by_who_made_them():
    """On its return from preemption a sequence has output already."""
    seq = make_row([1, 2, 1], 0, 5, output=[2, 9], slot=3).seq
    slot = pack_slot(seq, SLOT_SIZES)
    assert slot.slot == 3
    assert slot.prompt_ids.tolist() == [1, 2, 1, -1, -1, -1, -1, -1]
    assert slot.output_ids.tolist() == [2, 9, -1, -1, -1, -1, -1, -1]


def test_biases_keep_their_ids():
    slot = pack_slot(make_sequence([1], logit_bias={7: -1.5, 2: 100.0}), SLOT_SIZES)
    assert slot.bias_ids.tolist() == [7, 2, -1]
    assert slot.bias_values.tolist() == [-1.5, 100.0, 0.0]


def test_stop_ids_are_the_requests_and_the_models():
    seq = make_sequence([1], stop_token_ids=(4,))
    assert set(pack_slot(seq, SLOT_SIZES).stop_ids.tolist()) == {4, *seq.eos_token_ids}
    seq = make_sequence([1], stop_token_ids=(4,), ignore_eos=True)
    assert pack_slot(seq, SLOT_SIZES).stop_ids.tolist() == [4, -1]


def test_a_slot_takes_the_longest_sequence_and_every_bias():
    seq = make_row([1] * 5, 0, 8, output=[2] * 3, logit_bias={1: 1.0, 2: 2.0, 3: 3.0}).seq
    slot = pack_slot(seq, SLOT_SIZES)
    assert slot.prompt_ids.tolist() == [1] * 5 + [-1] * 3
    assert slot.bias_ids.tolist() == [1, 2, 3]
