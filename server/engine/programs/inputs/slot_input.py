"""Packs the state that the device keeps per slot: a sequence's tokens, biases and stop ids.

The state is set once, when a sequence gets its slot. Then the step updates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from server.engine.policy.sequences.sequence import Sequence

# NumPy arrays on the way to the device, traced arrays inside the step.
type Array = Any


class SlotInput(NamedTuple):
    """The device state for a slot that a sequence takes. Unused entries are -1."""

    rank: Array
    slot: Array
    prompt_ids: Array
    output_ids: Array
    bias_ids: Array
    bias_values: Array
    stop_ids: Array


@dataclass(frozen=True, slots=True)
class SlotSizes:
    """The capacity of a slot's state: tokens, biased ids, stop ids."""

    max_model_len: int
    max_biases: int
    max_stop_ids: int


def needs_slot_state(seq: Sequence) -> bool:
    """Whether an option of the sequence reads more of its slot's state than the last token."""
    params = seq.params
    return bool(
        params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
        or params.logit_bias
        or params.min_tokens
    )


def empty_slot(sizes: SlotSizes, rank: int, slot: int) -> SlotInput:
    """A slot without tokens, biases or stop ids."""
    return SlotInput(
        rank=np.int32(rank),
        slot=np.int32(slot),
        prompt_ids=np.full(sizes.max_model_len, -1, np.int32),
        output_ids=np.full(sizes.max_model_len, -1, np.int32),
        bias_ids=np.full(sizes.max_biases, -1, np.int32),
        bias_values=np.zeros(sizes.max_biases, np.float32),
        stop_ids=np.full(sizes.max_stop_ids, -1, np.int32),
    )


def pack_slot(seq: Sequence, sizes: SlotSizes) -> SlotInput:
    """The state of the slot that `seq` has just been given; all its tokens are known."""
    state = empty_slot(sizes, seq.rank, seq.slot)
    prompt = seq.token_ids[: seq.num_prompt_tokens]
    output = seq.token_ids[seq.num_prompt_tokens :]
    bias = seq.params.logit_bias
    state.prompt_ids[: len(prompt)] = prompt
    state.output_ids[: len(output)] = output
    state.bias_ids[: len(bias)] = list(bias)
    state.bias_values[: len(bias)] = list(bias.values())
    state.stop_ids[: len(seq.stop_token_ids)] = list(seq.stop_token_ids)
    return state
