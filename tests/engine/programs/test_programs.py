"""The compiled step on CPU: what it copies, what it writes in place, and other weights in it.

A conversion of all weights, or a copy of the pool, shows in the temporaries at once: either is many
times the bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from models.weights.loading import abstract_decoder, random_leaves
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.programs.baked import program_key
from server.engine.programs.device_state import StateSizes
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.slot_input import SlotSizes
from server.engine.programs.programs import Programs
from tests.models.checkpoints import LLAMA
from tests.models.cpu_kernels.compiled import need_kernels
from tests.models.paged import make_layout

CONFIG = parse_config(
    LLAMA
    | {
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
    }
)
SIZES = StateSizes(
    kinds=(KVKind(None, 513),),
    block_size=16,
    max_num_seqs=8,
    slot=SlotSizes(max_model_len=256, max_biases=4, max_stop_ids=4),
    num_words=128,
    draw_rows=8,
)
DECODE, MIXED = Bucket(8, 8, decode_only=True), Bucket(32, 8, decode_only=False)


def make_programs(dtype, **layout_fields):
    layout = make_layout(dtype=jnp.dtype(dtype), **layout_fields)
    mesh = make_mesh(CONFIG, 1)
    return Programs(abstract_decoder(CONFIG, layout), layout, mesh, SIZES), layout, mesh


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("bucket", [DECODE, MIXED], ids=["decode", "mixed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cpu_kernels", [False, True], ids=["xla", "kernels"])
def test_a_step_copies_neither_weights_nor_pool(dtype, bucket, cpu_kernels):
    if cpu_kernels:
        need_kernels()
    programs, _, _ = make_programs(dtype, cpu_kernels=cpu_kernels)
    memory = programs.lower(bucket).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * num_bytes(programs.abstract_leaves)
    assert memory.alias_size_in_bytes == num_bytes(programs.abstract_state())


def test_kernels_are_part_of_the_key_of_a_kept_program():
    keys = [
        program_key(programs.lower(DECODE), mesh)
        for programs, _, mesh in (make_programs("bfloat16", cpu_kernels=on) for on in (False, True))
    ]
    assert keys[0].differences(keys[1]) == ["program"]


def test_other_weights_are_a_rebind():
    programs, layout, mesh = make_programs("float32")
    step = programs.lower(DECODE).compile()
    state = programs.lower("make_state").compile()()
    inputs = SIZES.empty_input(DECODE)
    inputs = inputs._replace(
        token_ids_T=np.arange(8, dtype=np.int32), row_T=np.arange(8, dtype=np.int32)
    )
    tokens = []
    for seed in (1, 2, 1):
        leaves = random_leaves(CONFIG, layout, mesh, seed)
        output, _, state = step(leaves, state, inputs, (), ())
        tokens.append(np.asarray(output.drawn.token_S).tolist())
    assert tokens[0] == tokens[2] != tokens[1]
