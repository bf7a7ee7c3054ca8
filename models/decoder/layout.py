"""How a model is laid out for the devices that run it: what config.json does not hold.

Frozen and hashable, as `ModelConfig` is: the two together determine every weight's shape and every
program. Knows no devices; who makes one has looked at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from models.attention.base import Backend
from models.config import ModelConfig

# A shard's vocabulary is a multiple of this: the width of a TPU register, and even for the noise.
VOCAB_TILE = 128


def padded_vocab(vocab_size: int, num_shards: int) -> int:
    """Vocabulary rows of one shard, padding included."""
    return -(-vocab_size // (num_shards * VOCAB_TILE)) * VOCAB_TILE


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayout:
    """`dtype` is that of the matrices, or what they are multiplied in where they are int8
    (`quantized`); `activation_dtype` that of the residual stream. `stacked`: layers are scanned.
    """

    tensor_size: int
    stacked: bool
    dtype: jnp.dtype
    activation_dtype: jnp.dtype
    kv_dtype: jnp.dtype
    backend: Backend
    quantized: bool = False

    def kv_heads(self, config: ModelConfig) -> int:
        """KV heads counted with their copies: at least one a shard."""
        return max(config.num_kv_heads, self.tensor_size)

    def vocab_rows(self, config: ModelConfig) -> int:
        """Rows of the embedding: every shard has as many, a multiple of `VOCAB_TILE`."""
        return padded_vocab(config.vocab_size, self.tensor_size) * self.tensor_size

    @property
    def scales_kv(self) -> bool:
        """Whether keys and values are kept in units of a scale, an integer or 8-bit float each."""
        return self.kv_dtype.itemsize == 1
