"""The type that matrices and their products have: the checkpoint's, or what the settings say.

A TPU's matrix units and attention kernels know bfloat16 and float32, and no float16.
"""

from __future__ import annotations

import jax.numpy as jnp

from models.config import ModelConfig
from server.config.engine_config import EngineConfig

_FLOAT16 = "float16"


def matrix_dtype(config: ModelConfig, engine: EngineConfig, platform: str) -> jnp.dtype:
    """The type of the matrices or, if these are int8, of their products."""
    if _is_replaced(config, engine, platform):
        return jnp.dtype(jnp.bfloat16)
    return jnp.dtype(config.dtype if engine.dtype == "auto" else engine.dtype)


def dtype_note(config: ModelConfig, engine: EngineConfig, platform: str) -> str:
    """What an operator must know of the type, as a sentence; empty if it is the checkpoint's."""
    if not _is_replaced(config, engine, platform):
        return ""
    return (
        "the checkpoint is of float16, which a TPU does not compute: its numbers become bfloat16,"
        " with 8 significant bits of 11 (dtype float32 keeps all, in twice the memory)"
    )


def _is_replaced(config: ModelConfig, engine: EngineConfig, platform: str) -> bool:
    return platform == "tpu" and engine.dtype == "auto" and config.dtype == _FLOAT16
