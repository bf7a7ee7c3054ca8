"""Questions of small and of published models, for slices that are not there."""

from __future__ import annotations

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from models.huggingface.config_file import parse_config
from server.config.engine_config import EngineConfig
from server.plan.request import PlanRequest
from server.plan.slice_types import find_slice

# Small enough to be compiled in seconds, of a shape that the TPU kernels take.
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 512,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}


@pytest.fixture(autouse=True, scope="package")
def absent_tpu():
    """What libtpu wants to know, before anything asks it; and no cache of compiled programs.

    A client that can only compile cannot load what the cache holds.
    """
    wanted = {}
    find_slice("v6e:2x2").set_environment(wanted)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def ask():
    """A request of the tiny model, or of the given config, with changed settings."""

    def make(slice_name="v6e:2x2", config=None, context=1024, **settings):
        engine = EngineConfig(
            **{
                "max_num_seqs": 8,
                "max_model_len": context,
                "kv_context": context,
                "num_blocks": 64,
                "data_parallel_size": 1,
            }
            | settings
        )
        return PlanRequest(
            model="tiny",
            config=config or parse_config(TINY),
            slice=find_slice(slice_name),
            engine=engine,
            context=context,
        )

    return make
