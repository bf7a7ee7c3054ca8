"""What the towers share: matrices, attention of all patches over all, and layers one after another.

They compute on one shard of a `shard_map` over the `tensor` axis, and sum over shards explicitly.
Knows no tower.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import AnyVisionConfig
from models.parameters import declare, zeros
from models.sharding import TENSOR

F32 = jnp.dtype(jnp.float32)
# The most patches whose scores against all others are in memory at once.
_QUERY_TILE = 256
_NEVER = -1e30


class Linear(nnx.Module):
    """A matrix [in, out], with a bias or without. `axes` are its logical axes, None: not split."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        dtype: jnp.dtype,
        *,
        has_bias: bool,
    ) -> None:
        self.kernel = declare(rngs, shape, axes, dtype)
        self.bias = declare(rngs, shape[1:], axes[1:], dtype, zeros) if has_bias else None
        self.is_partial = axes[0] is not None

    def __call__(self, x: jax.Array) -> jax.Array:
        """In x's dtype; a product whose input is split is summed over the shards."""
        w = self.kernel[...]
        y = jnp.dot(x.astype(w.dtype), w, preferred_element_type=F32)
        if self.is_partial:
            y = jax.lax.psum(y, TENSOR)
        if self.bias is not None:
            y = y + self.bias[...].astype(F32)
        return y.astype(x.dtype)


def attend(
    q_PNH: jax.Array, k_PNH: jax.Array, v_PNH: jax.Array, scale: float, seen_P: jax.Array | None
) -> jax.Array:
    """Softmax attention over the patches of `seen_P`, None for all: [P, N H], float32.

    One tile of queries at a time.
    """
    num_patches = q_PNH.shape[0]
    tile = max(n for n in range(1, _QUERY_TILE + 1) if num_patches % n == 0)

    def of_tile(q_QNH: jax.Array) -> jax.Array:
        scores = jnp.einsum("qnh,pnh->nqp", q_QNH, k_PNH, preferred_element_type=F32) * scale
        scores = scores if seen_P is None else jnp.where(seen_P, scores, _NEVER)
        weights = jax.nn.softmax(scores, axis=-1).astype(v_PNH.dtype)
        return jnp.einsum("nqp,pnh->qnh", weights, v_PNH, preferred_element_type=F32)

    out = jax.lax.map(of_tile, q_PNH.reshape(-1, tile, *q_PNH.shape[1:]))
    return out.reshape(num_patches, -1)


def is_split(config: AnyVisionConfig, tensor_size: int) -> bool:
    """Whether shards have parts of heads and MLP; where not both divide, each shard has all."""
    return config.num_heads % tensor_size == 0 and config.mlp_size % tensor_size == 0


def stack_layers[L: nnx.Module](
    rngs: nnx.Rngs, num_layers: int, make: Callable[[nnx.Rngs], L]
) -> L:
    """A layer whose weights have a leading axis of layers."""
    stacked: L = nnx.split_rngs(splits=num_layers)(nnx.vmap(make, in_axes=(0,), out_axes=0))(rngs)
    return stacked


def run_layers(layers: Callable[..., jax.Array], x: jax.Array, *others: object) -> jax.Array:
    """The stacked layers one after another; each is given `others` too."""
    graphdef, weights = nnx.split(layers)
    num_layers = len(jax.tree.leaves(weights)[0])

    # Indexed inside, because XLA would copy weights that are scanned inputs.
    def body(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        layer = nnx.merge(graphdef, jax.tree.map(lambda w: w[i], weights))
        return layer(x, *others), None

    x, _ = jax.lax.scan(body, x, jnp.arange(num_layers))
    return x
