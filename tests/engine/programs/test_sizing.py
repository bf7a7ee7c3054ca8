from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from models.hf_config import parse_config
from models.sharding import make_mesh
from models.weights.weights import random_leaves
from server.config import ConfigError, EngineConfig
from server.engine.programs.blueprint import make_blueprint
from server.engine.programs.buckets import Bucket
from server.engine.programs.sizing import (
    MAX_TABLE_ENTRIES,
    ChipMemory,
    SizeError,
    check_table,
    count_blocks,
    layer_block_bytes,
    weight_bytes,
)
from tests.models.checkpoints import LLAMA

CONFIG = parse_config(LLAMA)


def draw(num_devices=1, **settings):
    mesh = make_mesh(CONFIG, num_devices, jax.devices()[:num_devices])
    return make_blueprint(CONFIG, EngineConfig(**settings), mesh, None)


def test_what_is_left_for_kv_is_the_usable_part_less_everything_else():
    memory = ChipMemory(usable=1000, weights=300, sampler=20, temporaries=50)
    assert memory.for_kv == 630


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_weights_are_what_their_arrays_take_of_a_device(num_devices):
    blueprint = draw(num_devices)
    leaves = random_leaves(CONFIG, blueprint.layout, blueprint.mesh)
    taken = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert weight_bytes(blueprint.model, blueprint.mesh) == taken


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_a_block_is_keys_and_values_of_one_layer_and_a_devices_heads(num_devices):
    blueprint = draw(num_devices)
    # 4 heads of 8 in float32.
    assert layer_block_bytes(CONFIG, blueprint.layout, 16) == 2 * 4 * 8 * 4 * 16 // num_devices


def test_blocks_are_whole_and_none_is_promised_that_has_no_room():
    assert count_blocks(1000, 64, 3) == 15
    with pytest.raises(SizeError, match="no room for KV"):
        count_blocks(383, 64, 3)
    with pytest.raises(SizeError, match=r"1\.00 GiB per chip are missing"):
        count_blocks(384 - (1 << 30), 64, 3)


def test_tables_fit_up_to_what_was_seen_to_compile():
    check_table(max_num_seqs=MAX_TABLE_ENTRIES, max_model_len=128, block_size=128)
    with pytest.raises(SizeError, match=r"max_model_len to 98304, max_num_seqs to 192"):
        check_table(max_num_seqs=256, max_model_len=131_072, block_size=128)


@pytest.mark.parametrize(
    "lowered", [{"max_model_len": 98_304}, {"max_num_seqs": 192}, {"block_size": 256}]
)
def test_what_a_refused_table_is_told_to_lower_does_help(lowered):
    sizes = {"max_num_seqs": 256, "max_model_len": 131_072, "block_size": 128} | lowered
    check_table(**sizes)


def test_a_cpu_takes_one_gibibyte_of_kv_in_blocks_of_16():
    blueprint = draw()
    assert blueprint.memory is None
    assert blueprint.sizes.block_size == 16
    assert blueprint.sizes.num_blocks == ((1 << 30) // (2 * 2 * 4 * 8 * 4 * 16),)


def test_kv_bytes_are_of_all_devices_together():
    one, four = draw(1, kv_cache_bytes=1 << 20), draw(4, kv_cache_bytes=1 << 20)
    assert one.sizes.num_blocks == four.sizes.num_blocks == (128,)


def test_blocks_that_are_asked_for_are_taken_at_their_word():
    blueprint = draw(num_blocks=7, block_size=4)
    assert (blueprint.sizes.num_blocks, blueprint.sizes.block_size) == ((7,), 4)


def test_a_cpus_ladder_is_fine_and_starts_small():
    buckets = draw(max_num_seqs=4).ladder.buckets
    assert buckets[0] == Bucket(2, 2, decode_only=True)
    assert Bucket(32, 4, decode_only=False) in buckets
    assert buckets[-1] == Bucket(128, 4, decode_only=False)


class FakeTpu:
    """A device of which nothing is asked but what it is."""

    platform = "tpu"
    id = 0


@pytest.fixture
def tpu_mesh():
    return Mesh(np.array([[FakeTpu()]], dtype=object), ("data", "tensor"))


@pytest.mark.parametrize("block_size", [8, 48, 512])
def test_a_tpu_takes_no_block_that_its_kernels_were_not_compiled_with(tpu_mesh, block_size):
    engine = EngineConfig(block_size=block_size)
    with pytest.raises(ConfigError, match=rf"block_size is {block_size}; on TPU it must be one of"):
        make_blueprint(CONFIG, engine, tpu_mesh, 1 << 34)
