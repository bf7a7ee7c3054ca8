"""Rows of two adapters and of none in one step, against models with the adapters merged in.

The oracle is NumPy in float64, on W + scale B A. Logits may differ by 1e-4 of the largest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.decoder.layout import AdapterSizes
from tests.golden import random_models
from tests.golden.configs import CONFIGS
from tests.models import naive
from tests.models.adapters import ATTENTION, MLP, merge, random_adapter, write_adapter
from tests.models.paged import PagedModel

TOLERANCE = 1e-4
SLOTS = [1, 0, 2, 1]


def make(name, tmp_path):
    """A model's folder, two adapters' folders, and the tensors of each slot's merged model."""
    tensors = random_models.weights(name)
    modules = ATTENTION if "moe" in name else (*ATTENTION, *MLP)
    first = random_adapter(tensors, rank=4, seed=1, modules=modules)
    second = random_adapter(tensors, rank=2, seed=2, modules=("q_proj", "v_proj"))
    folders = [
        write_adapter(tmp_path / "first", first, rank=4, lora_alpha=2),
        write_adapter(tmp_path / "second", second, rank=2, lora_alpha=3, use_rslora=True),
    ]
    merged = [tensors, merge(tensors, first, 0.5), merge(tensors, second, 3 / 2**0.5)]
    return random_models.write(name, tmp_path / "model"), folders, merged


@pytest.mark.parametrize(
    ("name", "tensor_size", "stacked"),
    [
        ("gemma3", 2, True),
        ("gemma4", 4, True),
        ("gemma4", 1, False),
        ("gemma4-moe", 2, True),
        ("qwen2", 4, False),
        ("qwen3-moe", 1, True),
    ],
)
def test_every_row_is_computed_as_by_its_own_merged_model(name, tensor_size, stacked, tmp_path):
    folder, adapters, merged = make(name, tmp_path)
    prompts = [prompt[:12] for prompt in random_models.prompts(name)[: len(SLOTS)]]
    model = PagedModel(
        folder,
        len(SLOTS),
        40,
        tensor_size=tensor_size,
        stacked=stacked,
        adapter_folders=adapters,
        slots=SLOTS,
        adapters=AdapterSizes(num_slots=3, rank=5),
    )
    logits = model.prefill(prompts)
    following = np.array([7, 8, 9, 10])
    decoded = model.decode(following)
    for row, slot in enumerate(SLOTS):
        expected = naive.forward(CONFIGS[name], merged[slot], [*prompts[row], following[row]])
        found = np.concatenate([logits[row], decoded[row : row + 1]])
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max(), slot


def test_an_adapter_that_peft_saved_gives_the_logits_that_peft_computed(tmp_path):
    adapter = Path("tests/golden/adapter")
    with np.load(adapter / "logits.npz") as file:
        prompts, expected = file["prompts"], file["logits"]
    model = PagedModel(
        random_models.write("llama3-tied", tmp_path),
        len(prompts),
        prompts.shape[1],
        adapter_folders=[adapter],
        slots=[1] * len(prompts),
        adapters=AdapterSizes(num_slots=1, rank=4),
    )
    found = np.stack(model.prefill(prompts.tolist()))
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
