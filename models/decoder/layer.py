"""One layer of a decoder: attention over its pool, then the MLP or the experts.

Every layer of a kind (`ModelConfig.of_kind`) has the same shapes and the same constants. Knows
neither how layers follow one another nor which weights they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention.base import AttentionSpec, Plan, Pool
from models.config import ModelConfig
from models.decoder.adapters import LayerAdapters, OfLayer
from models.decoder.layers import (
    AttentionProjections,
    KvScale,
    LayerScale,
    Mlp,
    RmsNorm,
    Sinks,
    declare_norm_weight,
    inverse_head_rms,
    inverse_rms,
)
from models.decoder.layout import DecoderLayout
from models.decoder.moe import Layer, MlpAndMoe, Moe
from models.decoder.parallel import Residual
from models.decoder.quantization import quantize_kv
from models.decoder.rope import HeadScale, RopeTables, rotate_keys, rotate_queries, rotated_size

type AnyMlp = Mlp | Moe | MlpAndMoe


@dataclass(frozen=True, slots=True)
class Kind:
    """The compile-time constants of one kind of layers in one program."""

    window: int | None
    row_tokens: int | None
    residual: Residual


class KindInputs(NamedTuple):
    """Shared by all layers of a kind in one step. `table_SB` has block numbers within one layer."""

    plan: Plan
    rope: RopeTables
    table_SB: jax.Array

    def starting_at(self, first: Any) -> KindInputs:
        """The same for a layer whose blocks begin at block `first` of its pool."""
        return self._replace(table_SB=self.table_SB + first)


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream [T, D].

    `config` is that of the layer's kind (`ModelConfig.of_kind`).
    """

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        d, eps, head_dim = config.hidden_size, config.rms_norm_eps, config.head_dim
        self.projections = AttentionProjections(rngs, config, layout)
        self.q_norm = RmsNorm(rngs, head_dim, eps) if config.qk_norm else None
        self.k_norm = RmsNorm(rngs, head_dim, eps) if config.qk_norm else None
        self.sinks = Sinks(rngs, config.num_heads) if config.sinks else None
        self.kv_scale = KvScale(rngs, layout.kv_heads(config)) if layout.scales_kv else None
        self.attention_norm = RmsNorm(rngs, d, eps) if config.post_norms else None
        self.mlp = make_mlp(rngs, config, layout)
        self.mlp_norm = RmsNorm(rngs, d, eps) if config.post_norms else None
        has_adapters = layout.adapters is not None
        self.attention_weight = declare_norm_weight(rngs, d) if has_adapters else None
        self.mlp_weight = declare_norm_weight(rngs, d) if has_adapters else None
        self.scale = LayerScale(rngs) if config.layer_scale else None
        self.config, self.layout = config, layout

    def __call__(
        self,
        x_TD: jax.Array,
        pool: Pool,
        inputs: KindInputs,
        kind: Kind,
        layer: Layer,
        of_layer: OfLayer = None,
    ) -> tuple[jax.Array, Pool]:
        residual, eps = kind.residual, self.config.rms_norm_eps
        adapters = self._adapters(of_layer)
        with jax.named_scope("attention"):
            norm_T1 = residual.gather(inverse_rms(x_TD, eps))
            heads = self.projections.heads(residual.gather(x_TD), norm_T1, adapters)
            q_KTGH, kv_TK2H = self._rotated(*heads[:2], inputs.rope, kind)
            out, pool = self._attend(q_KTGH, kv_TK2H, pool, inputs, kind)
            out = self.projections.back(out, residual, adapters, heads[2])
            x_TD = x_TD + (out if self.attention_norm is None else self.attention_norm(out))
        with jax.named_scope("mlp"):
            out = run_mlp(self.mlp, x_TD, eps, residual, layer, adapters)
            x_TD = x_TD + (out if self.mlp_norm is None else self.mlp_norm(out))
            return (x_TD if self.scale is None else self.scale(x_TD)), pool

    def _adapters(self, of_layer: OfLayer) -> LayerAdapters | None:
        if of_layer is None or self.attention_weight is None or self.mlp_weight is None:
            return None
        arrays, chosen_TC = of_layer
        return LayerAdapters(arrays, self.attention_weight[...], self.mlp_weight[...], chosen_TC)

    def _rotated(
        self, q_KTGH: jax.Array, kv_TK2H: jax.Array, rope: RopeTables, kind: Kind
    ) -> tuple[jax.Array, jax.Array]:
        """Queries and keys, normed where the model norms them, and rotated."""
        size = rotated_size(self.config.rope_of(kind.window), self.config.head_dim)
        q_scale = kv_scale = None
        if self.q_norm is not None and self.k_norm is not None:
            q_scale, kv_scale = self._head_scales(self.q_norm, self.k_norm, q_KTGH, kv_TK2H)
        return (
            rotate_queries(q_KTGH, rope, size, q_scale),
            rotate_keys(kv_TK2H, rope, size, kv_scale),
        )

    def _head_scales(
        self, q_norm: RmsNorm, k_norm: RmsNorm, q_KTGH: jax.Array, kv_TK2H: jax.Array
    ) -> tuple[HeadScale, HeadScale]:
        """What the norms multiply queries, and keys with values, by."""
        k_weight_H, kv_factor = k_norm.scale[...], inverse_head_rms(kv_TK2H, k_norm.eps)
        if not self.config.value_norm:
            is_key = (jnp.arange(2) == 0)[:, None]
            kv_factor = jnp.where(is_key, kv_factor, 1.0)
        kv_weight_2H = jnp.stack([k_weight_H, jnp.ones_like(k_weight_H)])
        q_scale = HeadScale(q_norm.scale[...], inverse_head_rms(q_KTGH, q_norm.eps))
        return q_scale, HeadScale(kv_weight_2H, kv_factor)

    def _attend(
        self,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: Pool,
        inputs: KindInputs,
        kind: Kind,
    ) -> tuple[jax.Array, Pool]:
        backend, dtype = self.layout.backend, self.layout.kv_dtype
        spec = attention_spec(self.config, self.layout, kind, pool)
        attend = partial(backend.attend, spec, inputs.plan)
        where = (pool, inputs.table_SB, self._sinks(spec))
        if self.kv_scale is None:
            return attend(q_KTGH, kv_TK2H.astype(dtype), *where)
        units = self.kv_scale.units[...]
        k_unit, v_unit = (units[:, i, None, None, None] for i in range(2))
        q_KTGH = (q_KTGH * k_unit).astype(q_KTGH.dtype)
        kv_TK2H = quantize_kv(kv_TK2H, units, dtype)
        out, pool = attend(q_KTGH, kv_TK2H, *where)
        return (out * v_unit).astype(out.dtype), pool

    def _sinks(self, spec: AttentionSpec) -> jax.Array | None:
        """The sinks of this shard's heads: [K, G]."""
        if self.sinks is None:
            return None
        return self.sinks.scores[...].reshape(spec.kv_heads, spec.group)


def make_mlp(rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> AnyMlp:
    """The second half of a layer: an MLP, experts, or both."""
    if config.moe is None:
        return Mlp(rngs, config, layout)
    make = MlpAndMoe if config.moe.beside_mlp else Moe
    return make(rngs, config, layout)


def run_mlp(
    mlp: AnyMlp,
    x_TD: jax.Array,
    eps: float,
    residual: Residual,
    layer: Layer,
    adapters: LayerAdapters | None = None,
) -> jax.Array:
    """What it adds to the residual stream, before any norm of its output."""
    norm_T1 = residual.gather(inverse_rms(x_TD, eps))
    gathered_TD = residual.gather(x_TD)
    if isinstance(mlp, Mlp):
        return mlp(gathered_TD, norm_T1, residual, adapters)
    return mlp(gathered_TD, norm_T1, residual, layer)


def attention_spec(
    config: ModelConfig, layout: DecoderLayout, kind: Kind, pool: Pool
) -> AttentionSpec:
    """`config` is that of the kind."""
    kv_heads = layout.kv_heads(config)
    vision = config.vision
    return AttentionSpec(
        kv_heads=kv_heads // layout.tensor_size,
        group=config.num_heads // kv_heads,
        head_dim=config.head_dim,
        window=kind.window,
        scale=config.attention_scale,
        softcap=config.attention_softcap,
        block_size=layout.backend.block_size(pool),
        kv_dtype=layout.kv_dtype,
        row_tokens=kind.row_tokens,
        bidirectional=config.bidirectional,
        image_tokens=vision.num_tokens if vision and vision.sees_image(kind.window) else 0,
        cpu_kernels=layout.cpu_kernels,
    )
