from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models.huggingface.config_file import parse_config
from models.sharding import (
    MeshError,
    allowed_tensor_sizes,
    data_size,
    make_mesh,
    named_sharding,
    partition_spec,
    tensor_size,
)
from tests.golden.configs import CONFIGS
from tests.models.checkpoints import LLAMA

CONFIG = parse_config(LLAMA)


def config(**changes):
    return parse_config(LLAMA | changes)


@pytest.mark.parametrize(
    ("axes", "spec"),
    [
        ((), PartitionSpec()),
        (("vocab", "embed"), PartitionSpec("tensor", None)),
        (("embed", "kv_heads"), PartitionSpec(None, "tensor")),
        (("layers", "q_heads", "embed"), PartitionSpec(None, "tensor", None)),
        (("embed", "mlp"), PartitionSpec(None, "tensor")),
        ((None,), PartitionSpec(None)),
    ],
)
def test_heads_mlp_and_vocabulary_are_split_and_nothing_else(axes, spec):
    assert partition_spec(axes) == spec


def test_a_named_sharding_cuts_an_array_where_its_axes_say():
    sharding = named_sharding(make_mesh(CONFIG, 4), ("embed", "mlp"))
    array = jax.device_put(np.arange(32).reshape(2, 16), sharding)
    assert [shard.data.shape for shard in array.addressable_shards] == [(2, 4)] * 4


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (1, 2, 4, 8)),
        # KV heads are repeated beyond their number, but only evenly.
        ({"num_key_value_heads": 2}, (1, 2, 4, 8)),
        ({"num_key_value_heads": 1}, (1, 2, 4, 8)),
        ({"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8}, (1, 3)),
        ({"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 8}, (1, 2, 4)),
        ({"num_attention_heads": 12, "num_key_value_heads": 3, "head_dim": 8}, (1, 3, 6)),
        ({"intermediate_size": 90}, (1, 2)),
    ],
)
def test_a_size_must_divide_query_heads_and_mlp(changes, sizes):
    assert allowed_tensor_sizes(config(**changes), 8) == sizes


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (1, 2, 4, 8)),
        # Of 12 query heads, a local layer has 4 KV heads and a global one 3.
        ({"num_attention_heads": 12, "num_global_key_value_heads": 3}, (1,)),
        ({"enable_moe_block": True}, (1, 2, 4, 8)),
        ({"enable_moe_block": True, "intermediate_size": 90}, (1, 2)),
        ({"enable_moe_block": True, "num_experts": 6}, (1, 2)),
    ],
)
def test_a_size_must_suit_each_kind_of_layers_and_experts_and_mlp(changes, sizes):
    experts = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 30}
    gemma4 = parse_config(CONFIGS["gemma4"] | experts | changes)
    assert allowed_tensor_sizes(gemma4, 8) == sizes


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (1, 2, 4)),
        ({"linear_num_key_heads": 2}, (1, 2)),
        ({"linear_num_key_heads": 1, "linear_num_value_heads": 3}, (1,)),
    ],
)
def test_a_size_must_divide_the_heads_of_states(changes, sizes):
    hybrid = CONFIGS["qwen3_5-moe"] | {"num_attention_heads": 4} | changes
    assert allowed_tensor_sizes(parse_config(hybrid), 8) == sizes


def test_no_size_exceeds_the_devices():
    assert allowed_tensor_sizes(CONFIG, 3) == (1, 2)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_mesh_has_a_data_and_a_tensor_axis(size):
    mesh = make_mesh(CONFIG, size)
    assert dict(mesh.shape) == {"data": 1, "tensor": size}
    assert tensor_size(mesh) == size


def test_ranks_are_of_neighbours():
    mesh = make_mesh(CONFIG, 2, data_size=3)
    assert dict(mesh.shape) == {"data": 3, "tensor": 2}
    assert data_size(mesh) == 3
    assert mesh.devices.tolist() == np.reshape(jax.devices()[:6], (3, 2)).tolist()


def test_more_ranks_than_devices_are_refused_with_how_many_would_do():
    with pytest.raises(MeshError, match=r"data_parallel_size 3 times 4 devices .*; 2 would do"):
        make_mesh(CONFIG, 4, data_size=3)


@pytest.mark.parametrize("size", [0, 3, 5, 16, -1])
def test_a_mesh_that_does_not_divide_is_refused_with_those_that_would(size):
    with pytest.raises(MeshError) as error:
        make_mesh(CONFIG, size)
    assert f"tensor_parallel_size {size} does not suit" in str(error.value)
    assert "8 query heads, 4 KV heads, MLP 96" in str(error.value)
    assert str(error.value).endswith("on 8 devices; these would: 1, 2, 4, 8")
