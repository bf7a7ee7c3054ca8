"""The dense decoder family: embedding, layers over the paged KV pool, norm, head.

Layers are either stacked (one leaf [L, ...] a weight, scanned, the KV pool in the carry) or listed
(one leaf a layer, unrolled). On CPU they are listed: a scan or a slice there copies each layer's
weights at every step. Knows no sampling and no scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention import KVLayer, Ragged, attend, write_kv
from models.config import ModelConfig
from models.layers import Embedding, Linear, Mlp, QkvProjection, RmsNorm
from models.rope import apply_rope, rope_tables
from models.sharding import TENSOR

type KVPool = tuple[KVLayer, ...]
type Rope = tuple[jax.Array, jax.Array]

# A shard's vocabulary is a multiple of this: the width of a TPU register, and even for the noise.
VOCAB_TILE = 128


def padded_vocab(vocab_size: int, num_shards: int) -> int:
    """Vocabulary rows of one shard, padding included."""
    return -(-vocab_size // (num_shards * VOCAB_TILE)) * VOCAB_TILE


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayout:
    """How a model lies on its mesh: static facts that config.json does not hold."""

    tensor_size: int
    stacked: bool
    dtype: jnp.dtype

    def kv_heads(self, config: ModelConfig) -> int:
        """KV heads counted with their copies: at least one a shard."""
        return max(config.num_kv_heads, self.tensor_size)

    def vocab_rows(self, config: ModelConfig) -> int:
        """Rows of the embedding: every shard has as many, a multiple of `VOCAB_TILE`."""
        return padded_vocab(config.vocab_size, self.tensor_size) * self.tensor_size


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream (float32 [T, D])."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        d, eps, dtype = config.hidden_size, config.rms_norm_eps, layout.dtype
        q_size = config.num_heads * config.head_dim
        self.input_norm = RmsNorm(rngs, d, eps, dtype)
        self.qkv = QkvProjection(rngs, config, layout.kv_heads(config), dtype)
        self.q_norm = RmsNorm(rngs, config.head_dim, eps, dtype) if config.qk_norm else None
        self.k_norm = RmsNorm(rngs, config.head_dim, eps, dtype) if config.qk_norm else None
        self.output = Linear(rngs, (q_size, d), ("q_heads", "embed"), dtype, config.output_bias)
        self.post_norm = RmsNorm(rngs, d, eps, dtype)
        self.mlp = Mlp(rngs, config, dtype)
        self.window = config.sliding_window

    def __call__(
        self,
        x_TD: jax.Array,
        kv: KVLayer,
        ragged: Ragged,
        rope: Rope,
        decode_only: bool,
    ) -> tuple[jax.Array, KVLayer]:
        with jax.named_scope("attention"):
            q, k, v = self.project(x_TD, rope)
            kv = write_kv(kv, ragged, k, v)
            out = attend(kv, ragged, q, window=self.window, decode_only=decode_only)
        return self.extend(x_TD, out), kv

    def project(self, x_TD: jax.Array, rope: Rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What attention works on: q [T, K, G, H] and k [T, K, H], rotated, and v [T, K, H]."""
        q, k, v = self.qkv(self.input_norm(x_TD))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return apply_rope(q, *rope), apply_rope(k, *rope), v

    def extend(self, x_TD: jax.Array, out_TKGH: jax.Array) -> jax.Array:
        """The residual stream with attention's result and the MLP added."""
        with jax.named_scope("attention"):
            x_TD = x_TD + self.output.partial(out_TKGH.reshape(x_TD.shape[0], -1))
        with jax.named_scope("mlp"):
            return x_TD + self.mlp(self.post_norm(x_TD))


class Decoder(nnx.Module):
    """A whole model. `head` is None where the embedding serves as head."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        rows = layout.vocab_rows(config)
        self.embedding = Embedding(rngs, rows, config.hidden_size, layout.dtype)
        self.layers = self._make_layers(rngs, config, layout)
        self.norm = RmsNorm(rngs, config.hidden_size, config.rms_norm_eps, layout.dtype)
        self.head = (
            None
            if config.tie_embeddings
            else Embedding(rngs, rows, config.hidden_size, layout.dtype)
        )
        self.config = config
        self.stacked = layout.stacked

    @staticmethod
    def _make_layers(
        rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout
    ) -> DecoderLayer | nnx.List[DecoderLayer]:
        if not layout.stacked:
            return nnx.List([DecoderLayer(rngs, config, layout) for _ in range(config.num_layers)])

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> DecoderLayer:
            return DecoderLayer(rngs, config, layout)

        layers: DecoderLayer = make(rngs)
        return layers

    def __call__(
        self, token_ids_T: jax.Array, kv: KVPool, ragged: Ragged, *, decode_only: bool
    ) -> tuple[jax.Array, KVPool]:
        """Hidden states after the final norm, float32 [T, D], and the pool with this step's KV."""
        x_TD = self.embedding(token_ids_T)
        rope = rope_tables(self.config, ragged.positions_T)
        run = self._scan if self.stacked else self._unroll
        x_TD, kv = run(x_TD, kv, ragged, rope, decode_only)
        return self.norm(x_TD), kv

    def logits(self, x: jax.Array) -> jax.Array:
        """This shard's logits, float32 [rows, V / shards]; rows past the vocabulary are -inf."""
        logits = (self.embedding if self.head is None else self.head).logits(x)
        token_id = jax.lax.axis_index(TENSOR) * logits.shape[1] + jnp.arange(logits.shape[1])
        return jnp.where(token_id < self.config.vocab_size, logits, -jnp.inf)

    def _unroll(
        self, x_TD: jax.Array, kv: KVPool, ragged: Ragged, rope: Rope, decode_only: bool
    ) -> tuple[jax.Array, KVPool]:
        written = []
        for layer, layer_kv in zip(self.layers, kv, strict=True):
            graphdef, weights = nnx.split(layer)
            x_TD, layer_kv = _run_layer(
                graphdef, weights, x_TD, layer_kv, ragged, rope, decode_only=decode_only
            )
            written.append(layer_kv)
        return x_TD, tuple(written)

    def _scan(
        self, x_TD: jax.Array, kv: KVPool, ragged: Ragged, rope: Rope, decode_only: bool
    ) -> tuple[jax.Array, KVPool]:
        """One pool for all layers: layer l's blocks start at l x blocks per layer.

        The weights are indexed inside the scan; scanned as inputs, or the pool as input and
        output, they would be copied.
        """
        graphdef, weights = nnx.split(self.layers)
        num_layers = self.config.num_layers
        blocks = kv[0].k.shape[0] // num_layers

        def body(
            carry: tuple[jax.Array, KVLayer], index: jax.Array
        ) -> tuple[tuple[jax.Array, KVLayer], None]:
            own_weights = jax.tree.map(lambda w: w[index], weights)
            tables = ragged.block_tables_SB + index * blocks
            own = ragged._replace(block_tables_SB=tables)
            return _run_layer(
                graphdef, own_weights, *carry, own, rope, decode_only=decode_only
            ), None

        (x_TD, pool), _ = jax.lax.scan(body, (x_TD, kv[0]), jnp.arange(num_layers))
        return x_TD, (pool,)


# Jitted so that the layers of an unrolled model, alike as they are, are traced once.
@partial(jax.jit, static_argnums=0, static_argnames="decode_only")
def _run_layer(
    graphdef: nnx.GraphDef[DecoderLayer],
    weights: nnx.State,
    x_TD: jax.Array,
    kv: KVLayer,
    ragged: Ragged,
    rope: Rope,
    *,
    decode_only: bool,
) -> tuple[jax.Array, KVLayer]:
    out: tuple[jax.Array, KVLayer] = nnx.merge(graphdef, weights)(
        x_TD, kv, ragged, rope, decode_only
    )
    return out
