"""Adapters' files read into a slot's values: what is refused, and what a manifest protects."""

from __future__ import annotations

import numpy as np
import pytest

from models.checkpoint import manifest
from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.files import LocalFiles
from models.decoder.layout import AdapterSizes
from models.huggingface.config_file import parse_config
from models.lora.adapter_config import AdapterError
from models.lora.slot_values import read_adapter, slot_bytes
from tests.golden import random_models
from tests.models.adapters import random_adapter, write_adapter
from tests.models.checkpoints import LLAMA, random_tensors
from tests.models.paged import make_layout

CONFIG = parse_config(LLAMA)
LAYOUT = make_layout(adapters=AdapterSizes(num_slots=2, rank=4))
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def tensors():
    return random_adapter(random_tensors(LLAMA), rank=2)


@pytest.fixture
def read(tmp_path):
    """Write an adapter of these tensors, and read it."""

    def write_and_read(tensors, config=CONFIG, **fields):
        folder = write_adapter(tmp_path / "adapter", tensors, rank=2, **fields)
        return read_adapter(LocalFiles(folder), tmp_path / "copy", config, LAYOUT)

    return write_and_read


def test_ranks_are_padded_and_the_scale_is_in_b(read, tensors):
    adapter = read(tensors, lora_alpha=6)
    assert (adapter.rank, adapter.is_published) == (2, False)
    assert adapter.num_bytes == slot_bytes(CONFIG, LAYOUT)
    first = adapter.values[0]
    assert np.array_equal(first.qkv_a[:, :2], tensors[f"{Q}.lora_A.weight"].T)
    assert np.allclose(first.q_b[:2], 3 * tensors[f"{Q}.lora_B.weight"].T)
    assert not first.qkv_a[:, 2:4].any()
    assert not first.q_b[2:].any()


def test_a_name_without_pefts_prefix_is_the_same(read, tensors):
    short = {name.removeprefix("base_model.model."): each for name, each in tensors.items()}
    assert np.array_equal(read(short).values[0].q_b, read(tensors).values[0].q_b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{Q}.lora_B.weight": None}, "q_proj has no tensor lora_B"),
        ({f"{Q}.lora_A.weight": np.zeros((2, 9))}, r"shape \[2, 9\], .* \[rank, 64\]; was the"),
        ({f"{Q}.lora_A.weight": np.zeros((5, 64))}, "has rank 5, but slots have rank 4: raise max"),
        ({f"{Q}.lora_A.weight": np.zeros((3, 64))}, "has ranks 3 and 2|has ranks 2 and 3"),
        ({f"{Q}.lora_A.weight": np.full((2, 64), np.nan)}, "lora_A.weight has values that are not"),
        (
            {"base_model.model.lm_head.lora_A.weight": np.zeros((2, 64))},
            "lm_head.*changes no matri",
        ),
        ({Q.replace("0", "7") + ".lora_A.weight": np.zeros((2, 64))}, "layer 7, .* has 2 layers"),
        (
            {Q.replace("model.layers", "vision.layers") + ".lora_A.weight": np.zeros((2, 64))},
            "vision",
        ),
        ({f"{Q}.lora_magnitude_vector": np.zeros(64)}, "lora_magnitude_vector' changes no matrix"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(read, tensors, change, message):
    changed = {
        name: value.astype(np.float32)
        for name, value in (tensors | change).items()
        if value is not None
    }
    with pytest.raises(AdapterError, match=message):
        read(changed)


def test_an_mlps_adapter_is_refused_where_the_model_has_experts(read, tensors):
    moe = LLAMA | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    with pytest.raises(AdapterError, match="is of an MLP, but the model has experts"):
        read(tensors, parse_config(moe))


def test_a_values_adapter_is_refused_where_the_layer_has_no_matrix_for_values(read):
    name, k, v = "gemma4", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj"
    tensors = random_adapter(random_models.weights(name), rank=2, modules=("k_proj",))
    renamed = {each.replace(k, v): value for each, value in tensors.items()}
    message = r"layers\.0\.self_attn\.v_proj.* of values, but layer 0 .* its k_proj"
    config = parse_config(random_models.CONFIGS[name])
    assert read(tensors, config).rank == 2
    with pytest.raises(AdapterError, match=message):
        read(renamed, config)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterError, match=r"no adapter_model.safetensors; .* run code"):
        read_adapter(LocalFiles(tmp_path), tmp_path / "copy", CONFIG, LAYOUT)
    with pytest.raises(CheckpointError, match="cannot be listed"):
        read_adapter(LocalFiles(tmp_path / "none"), tmp_path / "copy", CONFIG, LAYOUT)


def test_a_published_adapter_must_match_its_checksums(tmp_path, tensors):
    folder = write_adapter(tmp_path / "adapter", tensors, rank=2)
    (folder / "optimizer.safetensors").write_bytes(b"left over")
    manifest.write(folder)
    adapter = read_adapter(LocalFiles(folder), tmp_path / "copy", CONFIG, LAYOUT)
    assert adapter.is_published
    weights = folder / "adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        read_adapter(LocalFiles(folder), tmp_path / "copy", CONFIG, LAYOUT)
