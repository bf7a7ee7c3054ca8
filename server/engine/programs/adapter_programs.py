"""The programs that keep adapters on the device: zeros at the start, then one slot at a time.

Each slot holds the arrays of one adapter. A slot is replaced in place, between two steps, so
adapters come and go without another program. Knows neither names nor files of adapters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig
from models.decoder.adapters import StepAdapters, of_layers, put_adapter
from models.decoder.layout import AdapterSizes, DecoderLayout


class AdapterPrograms:
    """`abstract` has the shapes of all slots' arrays, `specs` their split; () without slots."""

    def __init__(self, config: ModelConfig, layout: DecoderLayout, mesh: Mesh) -> None:
        self._config, self._layout, self._mesh = config, layout, mesh
        self.specs: Any = of_layers(config, layout, lambda shape, spec: spec)
        self.abstract: Any = of_layers(config, layout, self._abstract)

    def lower_make(self) -> jax.stages.Lowered:
        """`() -> adapters`, all zeros."""

        def zeros() -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.abstract)

        return jax.jit(zeros, out_shardings=self._shardings()).lower()

    def lower_set(self) -> jax.stages.Lowered:
        """`(adapters, slot from 0, the slot's values) -> adapters`; the adapters are donated."""
        replicated = NamedSharding(self._mesh, PartitionSpec())
        jitted = jax.jit(
            put_adapter,
            in_shardings=(self._shardings(), replicated, self._shardings(of_slot=True)),
            out_shardings=self._shardings(),
            donate_argnums=0,
        )
        values = of_layers(self._config, self._layout, self._abstract, of_slot=True)
        return jitted.lower(self.abstract, np.int32(0), values)

    def _abstract(self, shape: tuple[int, ...], _: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, self._layout.dtype)

    def _shardings(self, *, of_slot: bool = False) -> Any:
        return of_layers(
            self._config,
            self._layout,
            lambda shape, spec: NamedSharding(self._mesh, spec),
            of_slot=of_slot,
        )


def choose(adapters: Any, number_T: jax.Array, sizes: AdapterSizes) -> StepAdapters:
    """The adapters, with each token's columns marked. Numbers of slots begin at 1; 0 is none."""
    number_C = 1 + jnp.arange(sizes.num_columns) // sizes.rank
    return StepAdapters(adapters, number_T[:, None] == number_C)
