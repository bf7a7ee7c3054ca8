"""Copies of blocks out of the pools and back, in the layouts of CPU and of TPU."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from models.config import GlobalAttention
from models.decoder.decoder import pool_shapes
from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from server.config.engine_config import EngineConfig
from server.engine.programs.block_programs import MOVED_BLOCKS, BlockPrograms
from server.engine.programs.blueprint.blueprint import choose_layout
from tests.models.checkpoints import LLAMA

# Three layers, of which the second has a window: two kinds.
CONFIG = replace(parse_config(LLAMA), num_layers=3, layer_windows=(None, 8, None))
# The global layers' heads are of another size.
TWO_SIZES = replace(
    CONFIG,
    global_attention=GlobalAttention(head_dim=16, num_kv_heads=2, keys_as_values=True),
)
NUM_BLOCKS = (12, 9)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("config", [CONFIG, TWO_SIZES], ids=["one size", "two sizes"])
def test_blocks_of_every_layer_come_back_under_other_numbers(config, stacked, num_devices):
    layout = choose_layout(config, EngineConfig(), "cpu", num_devices)
    layout = replace(layout, stacked=stacked)
    mesh = make_mesh(config, num_devices, jax.devices()[:num_devices])
    shapes = pool_shapes(config, layout, NUM_BLOCKS, 4)
    abstract = tuple(layout.backend.abstract_pool(shape) for shape in shapes)
    specs = (layout.backend.pool_specs(),) * len(abstract)
    programs = BlockPrograms(config, layout, mesh, NUM_BLOCKS, abstract, specs)
    rng = np.random.default_rng(0)
    pools = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract)
    numbers = np.zeros((2, MOVED_BLOCKS), np.int32)
    numbers[0, :3], numbers[1, :2] = (1, 5, 11), (8, 2)
    staged = programs.lower_save().compile()(_placed(pools, programs), numbers)
    moved = np.zeros_like(numbers)
    moved[0, :3], moved[1, :2] = (2, 3, 4), (1, 3)
    empty = _placed(jax.tree.map(np.zeros_like, pools), programs)
    found = programs.lower_restore().compile()(empty, moved, jax.device_get(staged))
    for kind, old, new in zip(programs.kinds, pools, jax.device_get(found), strict=True):
        for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            size = NUM_BLOCKS[kind]
            layers = len(before) // size
            assert layers == (1 if not stacked else (2, 1)[kind])
            expected = np.zeros_like(before)
            for first in range(0, len(before), size):
                expected[first + moved[kind]] = before[first + numbers[kind]]
            np.testing.assert_array_equal(after, expected)


def _placed(pools, programs):
    return jax.tree.map(jax.device_put, pools, programs._shard())
