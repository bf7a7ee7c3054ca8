"""Writes trained weights to a checkpoint folder in the Hugging Face layout, in bfloat16.

Loading joins some matrices (key and value, gate and up); exporting splits them again. Loading also
folds norms into the next matrices, so exporting writes ones for these norms.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from models.checkpoint import manifest
from models.config import ModelConfig
from models.decoder.decoder import Decoder
from models.decoder.layer import DecoderLayer
from models.training.recipe import CONFIG
from models.training.vocabulary import write_tokenizer

_GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_version(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a complete version into `folder`, and replace its present content."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: _bfloat16(tensor) for name, tensor in hf_tensors(model)}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    manifest.write_json(partial / "config.json", dict(CONFIG))
    generation = {key: CONFIG[key] for key in _GENERATION}
    manifest.write_json(partial / "generation_config.json", generation)
    write_tokenizer(tokenizer, partial, CONFIG["max_position_embeddings"])
    manifest.write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def hf_tensors(model: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under its Hugging Face name, matrices as [out, in]."""
    config = model.config
    yield "model.embed_tokens.weight", _array(model.embedding.table)[: config.vocab_size]
    yield "model.norm.weight", _array(model.norm.scale)
    for i, layer in enumerate(model.layers):
        for name, tensor in _layer_tensors(layer, config):
            yield f"model.layers.{i}.{name}.weight", tensor


def _layer_tensors(layer: DecoderLayer, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    ones = np.ones(config.hidden_size, np.float32)
    yield "input_layernorm", ones
    yield "post_attention_layernorm", ones
    yield "self_attn.q_proj", _array(layer.projections.q.kernel).T
    heads = _array(layer.projections.kv.kernel).T
    heads = heads.reshape(config.num_kv_heads, 2, config.head_dim, config.hidden_size)
    for i, letter in enumerate("kv"):
        yield f"self_attn.{letter}_proj", heads[:, i].reshape(-1, config.hidden_size)
    yield "self_attn.o_proj", _array(layer.projections.output.kernel).T
    gate, up = np.split(_array(layer.mlp.gate_up.kernel).T, 2)
    yield "mlp.gate_proj", gate
    yield "mlp.up_proj", up
    yield "mlp.down_proj", _array(layer.mlp.down.kernel).T


def _array(weight: nnx.Param[np.ndarray]) -> np.ndarray:
    return np.asarray(weight[...])


def _bfloat16(tensor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor.astype(ml_dtypes.bfloat16))
