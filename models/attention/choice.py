"""Chooses the attention backend for a platform and a model's shape."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from models.attention.base import Backend
from models.attention.pallas_rpa import HEAD_DIM, KV_HEADS, PallasAttention
from models.attention.tokamax_rpa import TokamaxAttention
from models.attention.xla import XlaAttention
from models.config import ModelConfig

type BackendName = Literal["auto", "tokamax", "pallas", "xla"]


class BackendError(ValueError):
    """The platform or the model does not allow the backend; the message names one to use."""


def choose_backend(
    name: BackendName, platform: str, config: ModelConfig, tensor_size: int
) -> Backend:
    """The named backend, or the best one for `auto`. Raises BackendError."""
    if name == "xla" or (name == "auto" and platform != "tpu"):
        return XlaAttention()
    if config.bidirectional:
        if name == "auto":
            return XlaAttention()
        raise BackendError(
            f"attention backend {name} lets no token see later ones, as this model's do; use xla"
        )
    if platform != "tpu":
        raise BackendError(f"attention backend {name} runs on TPU only; on {platform} use xla")
    has_tokamax = find_spec("tokamax") is not None
    if name == "tokamax" or (name == "auto" and has_tokamax):
        if not has_tokamax:
            raise BackendError("attention backend tokamax needs the package tokamax (extra tpu)")
        return TokamaxAttention()
    if config.sinks or config.vision is not None:
        if name == "auto":
            return XlaAttention()
        what = "sinks" if config.sinks else "images"
        raise BackendError(f"attention backend pallas knows no {what}; use tokamax")
    kinds = [config.of_kind(window) for window in config.windows]
    if all(_suits_pallas(kind, tensor_size) for kind in kinds):
        return PallasAttention()
    if name == "auto":
        return XlaAttention()
    config = next(kind for kind in kinds if not _suits_pallas(kind, tensor_size))
    kv_heads = _local_kv_heads(config, tensor_size)
    raise BackendError(
        f"attention backend pallas needs head_dim {HEAD_DIM} and KV heads on a chip among "
        f"{KV_HEADS}; this model has head_dim {config.head_dim} and {kv_heads}: use tokamax"
    )


def _suits_pallas(config: ModelConfig, tensor_size: int) -> bool:
    return config.head_dim == HEAD_DIM and _local_kv_heads(config, tensor_size) in KV_HEADS


def _local_kv_heads(config: ModelConfig, tensor_size: int) -> int:
    return max(1, config.num_kv_heads // tensor_size)
