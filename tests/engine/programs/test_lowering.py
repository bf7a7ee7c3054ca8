"""Nothing in the step is for CPU alone: it lowers for CUDA too. It has not run there."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import export

from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from models.weights.loading import abstract_decoder
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.programs.device_state import StateSizes
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.slot_input import SlotSizes
from server.engine.programs.programs import Programs
from tests.golden.random_models import CONFIGS
from tests.models.paged import make_layout

BUCKETS = [Bucket(4, 4, decode_only=True), Bucket(32, 4, decode_only=False)]


@pytest.mark.parametrize("name", ["llama3-untied", "gemma3", "gemma4-moe", "qwen3-moe"])
@pytest.mark.parametrize("bucket", BUCKETS, ids=["decode", "mixed"])
def test_a_stacked_step_lowers_for_cuda(name, bucket):
    config = parse_config(CONFIGS[name])
    bf16 = jnp.dtype(jnp.bfloat16)
    layout = make_layout(stacked=True, dtype=bf16, activation_dtype=bf16, kv_dtype=bf16)
    sizes = StateSizes(
        kinds=tuple(KVKind(window, 9) for window in config.windows),
        block_size=16,
        max_num_seqs=4,
        slot=SlotSizes(max_model_len=64, max_biases=4, max_stop_ids=4),
        num_words=4,
        draw_rows=4,
    )
    programs = Programs(abstract_decoder(config, layout), layout, make_mesh(config, 1), sizes)
    step, arguments = programs.step(bucket)
    exported = export.export(step, platforms=["cuda"])(*arguments)
    assert exported.platforms == ("cuda",)
