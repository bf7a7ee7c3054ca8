from __future__ import annotations

import jax
import pytest

from models.hf_config import parse_config
from models.sharding import make_mesh
from models.weights.loading import random_leaves
from server.config import EngineConfig
from server.engine.programs.blueprint import make_blueprint
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
