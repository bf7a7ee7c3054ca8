"""The programs that copy KV blocks out of the device's pools and into them, so many at a time.

One program reads blocks of all kinds of layers, one writes them. Blocks are named by number, block
0 where fewer are meant. Knows neither what is in a block nor where it goes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig
from models.decoder.decoder import KVPools
from models.decoder.layout import DecoderLayout

# Blocks of each kind that one program moves.
MOVED_BLOCKS = 8


class BlockPrograms:
    """Of one data rank. `kinds` has each pool's kind of layers, `staged` the shapes of its blocks.

    A staged array has the blocks first, then the layers of its pool.
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: DecoderLayout,
        mesh: Mesh,
        num_blocks: tuple[int, ...],
        pools: KVPools,
        specs: KVPools,
    ) -> None:
        self._mesh, self._num_blocks = mesh, num_blocks
        windows = config.windows if layout.stacked else config.layer_windows
        self.kinds = [config.windows.index(window) for window in windows]
        self._num_layers = [
            config.layer_windows.count(window) if layout.stacked else 1 for window in windows
        ]
        self._pools, self._specs = pools, specs
        self.staged: Any = tuple(
            jax.tree.map(
                lambda leaf, layers=layers: jax.ShapeDtypeStruct(
                    (MOVED_BLOCKS, layers, *leaf.shape[1:]), leaf.dtype
                ),
                pool,
            )
            for pool, layers in zip(pools, self._num_layers, strict=True)
        )

    def staged_shardings(self, memory_kind: str | None = None) -> Any:
        """Split by KV heads, as the pools are."""
        return self._shard(
            lambda spec: PartitionSpec(None, None, *spec[1:]), memory_kind=memory_kind
        )

    def lower_save(self) -> jax.stages.Lowered:
        """`(pools, numbers of blocks by kind) -> staged blocks`."""

        def save(pools: KVPools, numbers_KN: jax.Array) -> Any:
            return tuple(
                jax.tree.map(lambda leaf, rows=rows: leaf[rows], pool)
                for pool, rows in zip(pools, self._rows(numbers_KN), strict=True)
            )

        jitted = jax.jit(
            save,
            in_shardings=(self._shard(), self._replicated),
            out_shardings=self.staged_shardings(),
        )
        return jitted.lower(self._pools, self._numbers)

    def lower_restore(self) -> jax.stages.Lowered:
        """`(pools, numbers of blocks by kind, staged blocks) -> pools`; the pools are donated."""

        def restore(pools: KVPools, numbers_KN: jax.Array, staged: Any) -> KVPools:
            return tuple(
                jax.tree.map(lambda leaf, new, rows=rows: leaf.at[rows].set(new), pool, blocks)
                for pool, blocks, rows in zip(pools, staged, self._rows(numbers_KN), strict=True)
            )

        jitted = jax.jit(
            restore,
            in_shardings=(self._shard(), self._replicated, self.staged_shardings()),
            out_shardings=self._shard(),
            donate_argnums=0,
        )
        return jitted.lower(self._pools, self._numbers, self.staged)

    def _rows(self, numbers_KN: jax.Array) -> list[jax.Array]:
        """By pool, the places [N, L] of its layers' blocks: layers lie one after another."""
        return [
            numbers_KN[kind][:, None] + self._num_blocks[kind] * jnp.arange(layers)
            for kind, layers in zip(self.kinds, self._num_layers, strict=True)
        ]

    @property
    def _numbers(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self._num_blocks), MOVED_BLOCKS), jnp.int32)

    @property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec())

    def _shard(self, change: Any = lambda spec: spec, *, memory_kind: str | None = None) -> Any:
        return jax.tree.map(
            lambda spec: NamedSharding(self._mesh, change(spec), memory_kind=memory_kind),
            self._specs,
            is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
        )
