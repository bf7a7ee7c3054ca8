"""A decoder: embedding, layers over the paged KV pools, norm, head.

Layers are stacked or listed. Stacked: one leaf [L, ...] per weight of the layers of equal shapes; a
scan goes over groups of the window pattern, with one pool per kind of layers in its carry. Listed:
one leaf and one pool per layer, unrolled. CPU uses listed layers, because a scan or a slice on CPU
copies each layer's weights at every step. Knows neither sampling nor scheduling.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention.base import Pool, PoolShape, Ragged
from models.config import RECURRENT, CellVisionConfig, ModelConfig
from models.decoder.adapters import OfLayer, StepAdapters
from models.decoder.layer import DecoderLayer, Kind, KindInputs, attention_spec
from models.decoder.layers import (
    Embedding,
    RmsNorm,
)
from models.decoder.layout import DecoderLayout
from models.decoder.moe import Layer
from models.decoder.parallel import Residual
from models.decoder.recurrent_layer import RecurrentLayer
from models.decoder.rope import rope_tables
from models.decoder.stacks import place, pool_numbers, stacks_by_window
from models.decoder.state_pool import StatePlan, state_plan
from models.sharding import TENSOR
from models.vision.cell_tower import CellVisionTower
from models.vision.step_images import StepImages
from models.vision.tower import VisionTower

# Stacked layers: one pool per window of the config's `windows`. Listed layers: one pool per layer
# with KV.
type KVPools = tuple[Pool, ...]
# Those, and then the pools of states (`abstract_states`), if layers have one.
type Pools = tuple[Any, ...]
type AnyLayer = DecoderLayer | RecurrentLayer
type AnyInputs = KindInputs | StatePlan


class _TowerSizes(TypedDict):
    width: int
    dtype: jnp.dtype
    activation_dtype: jnp.dtype
    tensor_size: int


class Decoder(nnx.Module):
    """A whole model. `layers` has an entry for each of the layout's `stacks`.

    `head` is None if the embedding is also the output head. `vision` is the tower whose rows may
    stand in the place of embeddings; None without one.
    """

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        rows, d = layout.vocab_rows(config), config.hidden_size
        self.embedding = Embedding(rngs, rows, d, layout)
        self.layers = self._make_layers(rngs, config, layout)
        self.norm = RmsNorm(rngs, d, config.rms_norm_eps)
        self.head = None if config.tie_embeddings else Embedding(rngs, rows, d, layout)
        self.vision = _make_tower(rngs, config, layout)
        self.config, self.layout = config, layout

    @staticmethod
    def _make_layers(
        rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout
    ) -> nnx.List[AnyLayer]:
        def stack(layers: tuple[int, ...]) -> AnyLayer:
            of_kind = config.of_layer(layers[0])
            kind = DecoderLayer if of_kind.recurrence is None else RecurrentLayer
            if not layout.stacked:
                return kind(rngs, of_kind, layout)

            @nnx.split_rngs(splits=len(layers))
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(rngs: nnx.Rngs) -> AnyLayer:
                return kind(rngs, of_kind, layout)

            made: AnyLayer = make(rngs)
            return made

        return nnx.List([stack(layers) for layers in layout.stacks(config)])

    def __call__(
        self,
        token_ids_T: jax.Array,
        pools: Pools,
        ragged: Ragged,
        *,
        row_tokens: int | None,
        adapters: StepAdapters | None = None,
        images: StepImages | None = None,
    ) -> tuple[jax.Array, Pools]:
        """Hidden states after the final norm, [T, D] on every shard, and the pools after the step.

        No row has more than `row_tokens` tokens; None promises nothing.
        """
        config, size = self.config, self.layout.tensor_size
        residual = Residual(row_tokens != 1 and size > 1 and token_ids_T.shape[0] % size == 0)
        kinds = {window: Kind(window, row_tokens, residual) for window in config.kinds}
        inputs = {window: self._inputs(kind, pools, ragged) for window, kind in kinds.items()}
        x_TD = residual.reduce(self._embed(token_ids_T, images))
        run = self._scan if self.layout.stacked else self._unroll
        x_TD, pools = run(x_TD, pools, kinds, inputs, adapters)
        return residual.gather(self.norm(x_TD)), pools

    def logits(self, x: jax.Array) -> jax.Array:
        """This shard's logits, float32 [rows, V / shards]; rows past the vocabulary are -inf."""
        logits = (self.embedding if self.head is None else self.head).logits(x)
        if self.config.logit_softcap is not None:
            logits = self.config.logit_softcap * jnp.tanh(logits / self.config.logit_softcap)
        if logits.shape[1] * self.layout.tensor_size == self.config.vocab_size:
            return logits
        token_id = jax.lax.axis_index(TENSOR) * logits.shape[1] + jnp.arange(logits.shape[1])
        return jnp.where(token_id < self.config.vocab_size, logits, -jnp.inf)

    def _embed(self, token_ids_T: jax.Array, images: StepImages | None) -> jax.Array:
        """This shard's part of the token vectors. The scale is rounded to the weights' dtype.

        The rows of images are not scaled, and the first shard has them whole.
        """
        x = self.embedding.partial(token_ids_T).astype(self.layout.activation_dtype)
        if self.config.embedding_scale != 1.0:
            scale = jnp.asarray(self.config.embedding_scale, self.layout.dtype)
            x = x * scale.astype(x.dtype)
        if images is None:
            return x
        rows_MND = jnp.where(jax.lax.axis_index(TENSOR) == 0, images.rows_MND, 0)
        return images._replace(rows_MND=rows_MND.astype(x.dtype)).put(x)

    def _inputs(self, kind: Kind, pools: Pools, ragged: Ragged) -> AnyInputs:
        config, layout = self.config, self.layout
        number = config.layer_windows.index(kind.window)
        pool = pools[pool_numbers(config, layout)[number]]
        if kind.window == RECURRENT:
            return state_plan(ragged, self._each(pool, kind.window))
        index = config.windows.index(kind.window)
        of_kind = config.of_kind(kind.window)
        spec = attention_spec(of_kind, layout, kind, pool)
        return KindInputs(
            layout.backend.plan(spec, ragged),
            rope_tables(config.rope_of(kind.window), of_kind.head_dim, ragged.positions_T),
            ragged.block_tables_KSB[index],
        )

    def _each(self, pool: Any, window: int | None) -> int:
        """The blocks, or slots, that each layer of the kind has in its pool."""
        num_layers = self.config.layer_windows.count(window) if self.layout.stacked else 1
        return int(jax.tree.leaves(pool)[0].shape[0] // num_layers)

    def _unroll(
        self,
        x_TD: jax.Array,
        pools: Pools,
        kinds: dict[int | None, Kind],
        inputs: dict[int | None, AnyInputs],
        adapters: StepAdapters | None,
    ) -> tuple[jax.Array, Pools]:
        held = list(pools)
        numbers = pool_numbers(self.config, self.layout)
        for i, (layer, window) in enumerate(
            zip(self.layers, self.config.layer_windows, strict=True)
        ):
            graphdef, weights = nnx.split(layer)
            of_layer = adapters.of(i, None) if adapters else None
            pool = held[numbers[i]]
            x_TD, held[numbers[i]] = _run_layer(
                graphdef, kinds[window], weights, x_TD, pool, inputs[window], None, of_layer
            )
        return x_TD, tuple(held)

    def _scan(
        self,
        x_TD: jax.Array,
        pools: Pools,
        kinds: dict[int | None, Kind],
        inputs: dict[int | None, AnyInputs],
        adapters: StepAdapters | None,
    ) -> tuple[jax.Array, Pools]:
        """Scan whole patterns of layers, then run the rest of the last pattern.

        The weights are indexed inside the scan, because XLA would copy weights that are scanned
        inputs. It would also copy pools that are scanned inputs and outputs. A layer's blocks, or
        slots, start at (the layer's number within its kind) x (those of one layer).
        """
        config, pattern = self.config, self.config.pattern
        stacks = [nnx.split(stack) for stack in self.layers]
        stack_of = stacks_by_window(config, self.layout)

        def run(x_TD: jax.Array, pools: Pools, group: Any, size: int) -> tuple[Any, Pools]:
            held = list(pools)
            for j, window in enumerate(pattern[:size]):
                i, stack = config.kinds.index(window), stack_of[window]
                layer = place(pattern, group, j, {w for w in stack_of if stack_of[w] == stack})
                nth = place(pattern, group, j, {window})
                own = inputs[window].starting_at(nth * self._each(held[i], window))
                of_layer = adapters.of(stack, layer) if adapters else None
                graphdef, weights = stacks[stack]
                own_weights = _index(weights, layer)
                x_TD, held[i] = _run_layer(
                    graphdef, kinds[window], own_weights, x_TD, held[i], own, layer, of_layer
                )
            return x_TD, tuple(held)

        def body(carry: tuple[jax.Array, Pools], group: jax.Array) -> tuple[Any, None]:
            return run(*carry, group, len(pattern)), None

        groups, rest = divmod(config.num_layers, len(pattern))
        carry, _ = jax.lax.scan(body, (x_TD, pools), jnp.arange(groups))
        return run(*carry, groups, rest)


def _make_tower(
    rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout
) -> VisionTower | CellVisionTower | None:
    sizes: _TowerSizes = {
        "width": config.hidden_size,
        "dtype": layout.dtype,
        "activation_dtype": layout.activation_dtype,
        "tensor_size": layout.tensor_size,
    }
    match config.vision:
        case None:
            return None
        case CellVisionConfig() as vision:
            return CellVisionTower(rngs, vision, **sizes)
        case vision:
            return VisionTower(rngs, vision, **sizes)


def pool_shapes(
    config: ModelConfig, layout: DecoderLayout, num_blocks: tuple[int, ...], block_size: int
) -> list[PoolShape]:
    """A decoder's KV pools; `num_blocks` has the blocks per layer for each window."""

    def shape(window: int | None, num_layers: int) -> PoolShape:
        of_kind = config.of_kind(window)
        return PoolShape(
            num_blocks=by_window[window] * num_layers,
            block_size=block_size,
            kv_heads=layout.kv_heads(of_kind),
            head_dim=of_kind.head_dim,
            dtype=layout.kv_dtype,
        )

    by_window = dict(zip(config.windows, num_blocks, strict=True))
    if not layout.stacked:
        return [shape(window, 1) for window in config.kv_windows]
    return [shape(window, config.layer_windows.count(window)) for window in config.windows]


def _index(weights: nnx.State, layer: Layer) -> nnx.State:
    """One layer's weights from a stack; experts stay stacked, because `Moe` indexes them itself."""
    return jax.tree.map_with_path(
        lambda path, w: w if any("experts" in str(key) for key in path) else w[layer], weights
    )


# Jitted so that JAX traces the identical layers of an unrolled model only once.
@partial(jax.jit, static_argnums=(0, 1))
def _run_layer(
    graphdef: nnx.GraphDef[AnyLayer],
    kind: Kind,
    weights: nnx.State,
    x_TD: jax.Array,
    pool: Any,
    inputs: AnyInputs,
    layer: Layer,
    of_layer: OfLayer,
) -> tuple[jax.Array, Any]:
    module: Any = nnx.merge(graphdef, weights)
    out: tuple[jax.Array, Any] = module(x_TD, pool, inputs, kind, layer, of_layer)
    return out
