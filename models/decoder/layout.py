"""A model's layout on its devices: the choices that are not in config.json.

Frozen and hashable like `ModelConfig`. The two together determine every weight's shape and every
program. Knows no devices; the caller that makes a layout looks at the devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from models.attention.base import Backend
from models.config import ModelConfig

# A shard's vocabulary is a multiple of this: a TPU register's width, and even, as the noise needs.
VOCAB_TILE = 128


def padded_vocab(vocab_size: int, num_shards: int) -> int:
    """Vocabulary rows of one shard, padding included."""
    return -(-vocab_size // (num_shards * VOCAB_TILE)) * VOCAB_TILE


@dataclass(frozen=True, slots=True)
class AdapterSizes:
    """Room for low-rank adapters on the device: adapters at once, and the rank of each."""

    num_slots: int
    rank: int

    @property
    def num_columns(self) -> int:
        """The ranks of all slots together."""
        return self.num_slots * self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayout:
    """`dtype` is the dtype of the matrices or, if the matrices are int8 (`quantized`), of their
    products. `activation_dtype` is the dtype of the residual stream. `stacked`: layers are scanned.
    `adapters` is None where no row has an adapter. `cpu_kernels`: products of few rows are made by
    the kernels of `models.cpu_kernels`.
    """

    tensor_size: int
    stacked: bool
    dtype: jnp.dtype
    activation_dtype: jnp.dtype
    kv_dtype: jnp.dtype
    backend: Backend
    quantized: bool = False
    adapters: AdapterSizes | None = None
    cpu_kernels: bool = False

    def kv_heads(self, config: ModelConfig) -> int:
        """The number of KV heads of one kind of layers, copies included: at least one per shard."""
        return max(config.num_kv_heads, self.tensor_size)

    def stacks(self, config: ModelConfig) -> tuple[tuple[int, ...], ...]:
        """The layers of each entry of a decoder's `layers`, as numbers from 0.

        Stacked layers: all whose weights have equal shapes. Listed layers: each by itself.
        """
        if not self.stacked:
            return tuple((layer,) for layer in range(config.num_layers))
        by_shape: dict[ModelConfig, list[int]] = {}
        for layer in range(config.num_layers):
            by_shape.setdefault(config.of_layer(layer), []).append(layer)
        return tuple(map(tuple, by_shape.values()))

    def vocab_rows(self, config: ModelConfig) -> int:
        """Rows of the embedding: every shard has an equal part, a multiple of `VOCAB_TILE`."""
        return padded_vocab(config.vocab_size, self.tensor_size) * self.tensor_size

    @property
    def scales_kv(self) -> bool:
        """Whether the pool stores keys and values in 8 bits, in units of a scale."""
        return self.kv_dtype.itemsize == 1
