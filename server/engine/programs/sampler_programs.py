"""The programs of the sampler beside the steps: set a slot, and draw again for rows with a grammar.

A draw takes the logits of its rows from a step (a pick), which stay split as the vocabulary is.
Knows neither the model nor grammars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.sharding import DATA, TENSOR, shardings_of
from server.engine.programs.device_state import StateSizes
from server.engine.programs.inputs.slot_input import empty_slot
from server.engine.programs.inputs.step_input import DrawInput
from server.engine.programs.sampling.sampler import Drawn, SamplerState, draw, set_slot

# Logits [rows of all ranks, V].
LOGITS_SPEC = PartitionSpec(DATA, TENSOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerPrograms:
    """`state` has the shapes of the sampler's state, `specs` their split.

    `own` takes a rank's part of an input of all ranks.
    """

    own: Callable[[Any], Any]
    state: SamplerState
    specs: SamplerState
    vocab_rows: int
    mesh: Mesh
    sizes: StateSizes

    def lower_set_slot(self) -> jax.stages.Lowered:
        """`(sampler state, slot input) -> sampler state`; the state is donated."""
        specs = self.specs
        mapped = jax.shard_map(
            set_slot,
            mesh=self.mesh,
            in_specs=(specs, PartitionSpec()),
            out_specs=specs,
            check_vma=False,
        )
        shardings = shardings_of(self.mesh, specs)
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(
            mapped,
            in_shardings=(shardings, replicated),
            out_shardings=shardings,
            donate_argnums=0,
        )
        inputs = empty_slot(self.sizes.slot, 0, self.sizes.scratch_slot)
        return jitted.lower(self.state, inputs)

    def lower_pick(self, num_rows: int) -> jax.stages.Lowered:
        """`(logits of a step, rows) -> logits of a draw`."""

        def of_rank(logits_SV: jax.Array, row_S: jax.Array) -> jax.Array:
            return logits_SV[self.own(row_S)]

        mapped = jax.shard_map(
            of_rank,
            mesh=self.mesh,
            in_specs=(LOGITS_SPEC, PartitionSpec()),
            out_specs=LOGITS_SPEC,
            check_vma=False,
        )
        logits = shardings_of(self.mesh, LOGITS_SPEC)
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(mapped, in_shardings=(logits, replicated), out_shardings=logits)
        return jitted.lower(self._abstract_logits(num_rows), self.sizes.empty_draw().row_S)

    def lower_draw(self) -> jax.stages.Lowered:
        """`(sampler state, logits, draw input) -> (drawn, sampler state)`; state is donated."""
        specs = self.specs

        def of_rank(
            state: SamplerState, logits_SV: jax.Array, inputs: DrawInput
        ) -> tuple[Drawn, SamplerState]:
            return draw(logits_SV, state, self.own(inputs))

        mapped = jax.shard_map(
            of_rank,
            mesh=self.mesh,
            in_specs=(specs, LOGITS_SPEC, PartitionSpec()),
            out_specs=(PartitionSpec(DATA), specs),
            check_vma=False,
        )
        shardings = shardings_of(self.mesh, specs)
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(
            mapped,
            in_shardings=(shardings, shardings_of(self.mesh, LOGITS_SPEC), replicated),
            out_shardings=(replicated, shardings),
            donate_argnums=0,
        )
        logits = self._abstract_logits(self.sizes.draw_rows)
        return jitted.lower(self.state, logits, self.sizes.empty_draw())

    def _abstract_logits(self, num_rows: int) -> jax.ShapeDtypeStruct:
        shape = self.sizes.num_ranks * num_rows, self.vocab_rows
        return jax.ShapeDtypeStruct(shape, jnp.float32)
