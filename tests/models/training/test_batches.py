from __future__ import annotations

import numpy as np
import pytest

from models.training.batches import Batches, documents
from models.training.vocabulary import BOS_ID, EOS_ID, train_tokenizer

WINDOW = 8


def batches(lengths=(90, 3, 50, 20), seed=0):
    """Documents of numbers that tell where they came from."""
    ends = np.cumsum(lengths)
    parts = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
    return Batches(parts, batch_size=2, window=WINDOW, seed=seed)


def epoch(all_batches, number):
    first = number * all_batches.steps_per_epoch
    return np.concatenate([all_batches[first + i] for i in range(all_batches.steps_per_epoch)])


def test_a_document_runs_from_bos_to_eos():
    tokenizer = train_tokenizer(["import os\n"], 300)
    (tokens,) = documents(tokenizer, ["import os\n"])
    assert (tokens[0], tokens[-1], tokens.dtype) == (BOS_ID, EOS_ID, np.int32)
    assert tokenizer.decode(tokens[1:-1].tolist()) == "import os\n"


def test_a_batch_holds_windows_and_one_target_more():
    assert batches()[0].shape == (2, WINDOW + 1)


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    once = batches()
    late = once[25]
    assert np.array_equal(batches()[25], late)
    assert not np.array_equal(batches(seed=1)[25], late)


def test_an_epoch_shows_every_token_as_input_at_most_once():
    inputs = epoch(batches(), 0)[:, :-1].ravel()
    assert len(set(inputs.tolist())) == len(inputs) >= 163 - 2 * 2 * WINDOW


def test_within_a_document_a_target_is_the_next_token():
    windows = epoch(batches(lengths=(163,)), 0)
    assert (np.diff(windows, axis=1) == 1).all()


def test_another_epoch_cuts_and_orders_anew():
    both = batches()
    assert not np.array_equal(epoch(both, 0), epoch(both, 1))


def test_too_little_text_for_a_batch_is_refused():
    with pytest.raises(ValueError, match="12 tokens"):
        batches(lengths=(12,))
