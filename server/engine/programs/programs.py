"""The programs that the device runs: one step per bucket, and the program that sets a slot.

A program takes the weights as arguments with fixed shardings, so other weights of the same shape
need no new program. It takes the state donated, so the KV pool is written in place. Everything runs
under one `shard_map`. Programs are lowered here and compiled ahead of time: by the server for its
own devices, by `plan` for those of a slice that is not here. The device runs only buckets of the
ladder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from models.decoder.decoder import Decoder, pool_shapes
from models.decoder.layout import DecoderLayout
from models.decoder.state_pool import abstract_states, state_pool_specs
from models.sharding import DATA, shardings_of
from models.weights.loading import leaf_shardings
from server.engine.programs.adapter_programs import AdapterPrograms, choose
from server.engine.programs.block_programs import BlockPrograms
from server.engine.programs.device_state import DeviceState, StateSizes
from server.engine.programs.image_programs import (
    ROWS_SPEC,
    ImagePrograms,
    abstract_rows,
    in_step,
)
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.step_input import (
    StepInput,
)
from server.engine.programs.sampler_programs import LOGITS_SPEC, SamplerPrograms
from server.engine.programs.sampling.pooling import pool
from server.engine.programs.sampling.sampler import (
    abstract_state,
    sample,
    state_specs,
)
from server.engine.programs.step_geometry import ragged_of, with_images
from server.engine.programs.step_output import StepOutput, output_specs, prompt_logprobs


@dataclass(frozen=True, slots=True, order=True)
class PickSize:
    """The size of a pick, which takes the logits of a draw's rows from a step of `num_rows`."""

    num_rows: int


# A step's bucket, the size of a pick, or the name of a program that is neither. The programs of
# adapters need slots for them, the programs of blocks a server that keeps blocks on the host, the
# programs of images a model that reads some.
type ProgramName = (
    Bucket
    | PickSize
    | Literal["draw", "set_slot", "make_state"]
    | Literal["set_adapter", "make_adapters", "save_blocks", "restore_blocks"]
    | Literal["encode_image", "make_images"]
)


class Programs:
    """Lowers the programs of one model on one mesh. Holds neither weights nor state.

    `abstract_leaves` are the shapes of the weights that the programs take.
    """

    def __init__(
        self, model: Decoder, layout: DecoderLayout, mesh: Mesh, sizes: StateSizes
    ) -> None:
        self._graphdef, weights = nnx.split(model)
        leaves, self._treedef = jax.tree.flatten(weights)
        self.abstract_leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        self._leaf_specs = [sharding.spec for sharding in leaf_shardings(model, mesh)]
        self._layout, self._mesh, self._sizes = layout, mesh, sizes
        self._config = model.config
        self._adapters = AdapterPrograms(model.config, layout, mesh)

    def lower(self, name: ProgramName) -> jax.stages.Lowered:
        """The named program, lowered and ready to be compiled."""
        if name == "make_state":
            return self._lower_make_state()
        if name == "set_slot":
            return self._sampler.lower_set_slot()
        if name == "draw":
            return self._sampler.lower_draw()
        if name == "make_adapters":
            return self._adapters.lower_make()
        if name == "set_adapter":
            return self._adapters.lower_set()
        if name == "make_images":
            return self._images.lower_make()
        if name == "encode_image":
            return self._images.lower_encode()
        if name == "save_blocks" or name == "restore_blocks":
            return self._lower_blocks(name)
        if isinstance(name, PickSize):
            return self._sampler.lower_pick(name.num_rows)
        jitted, arguments = self.step(name)
        return jitted.lower(*arguments)

    @property
    def blocks(self) -> BlockPrograms:
        """The programs that copy blocks from and to the host."""
        return BlockPrograms(
            self._config,
            self._layout,
            self._mesh,
            self._sizes.num_blocks,
            self.abstract_state().kv,
            self.state_specs().kv,
        )

    @property
    def _images(self) -> ImagePrograms:
        return ImagePrograms(
            merge=self._merge,
            own=self._own,
            leaves=self.abstract_leaves,
            specs=self._leaf_specs,
            rows=self._abstract_rows(),
            mesh=self._mesh,
            sizes=self._sizes,
        )

    def _abstract_rows(self) -> jax.ShapeDtypeStruct:
        images, width = self._sizes.images, self._config.hidden_size
        assert images is not None
        return abstract_rows(width, self._layout, images, self._sizes.num_ranks)

    def _lower_blocks(self, name: Literal["save_blocks", "restore_blocks"]) -> jax.stages.Lowered:
        programs = self.blocks
        return programs.lower_save() if name == "save_blocks" else programs.lower_restore()

    def step(self, bucket: Bucket) -> tuple[jax.stages.Wrapped, tuple[Any, ...]]:
        """`(leaves, state, input, adapters, images) -> (output, logits, state)` for one bucket,
        and the arguments' shapes.

        `state` is donated. The logits stay on the device, split as the vocabulary is, for the
        draw that may follow. `adapters` is () for a server without slots for any, `images` for a
        bucket without room for any.
        """
        state_specs, has_images = self.state_specs(), bool(self._sizes.num_images_in(bucket))
        in_specs: tuple[Any, ...] = (
            self._leaf_specs,
            state_specs,
            PartitionSpec(),
            self._adapters.specs,
            ROWS_SPEC if has_images else (),
        )

        def step(*arguments: Any) -> tuple[StepOutput, jax.Array, DeviceState]:
            return self._step(*arguments, bucket=bucket)

        mapped = jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=in_specs,
            out_specs=(output_specs(), LOGITS_SPEC, state_specs),
            check_vma=False,
        )
        jitted = jax.jit(
            mapped,
            in_shardings=shardings_of(self._mesh, in_specs),
            out_shardings=shardings_of(self._mesh, (PartitionSpec(), LOGITS_SPEC, state_specs)),
            donate_argnums=1,
        )
        return jitted, (
            self.abstract_leaves,
            self.abstract_state(),
            self._sizes.empty_input(bucket),
            self._adapters.abstract,
            self._abstract_rows() if has_images else (),
        )

    @property
    def _sampler(self) -> SamplerPrograms:
        return SamplerPrograms(
            own=self._own,
            state=self.abstract_state().sampler,
            specs=self.state_specs().sampler,
            vocab_rows=self._layout.vocab_rows(self._config),
            mesh=self._mesh,
            sizes=self._sizes,
        )

    def _lower_make_state(self) -> jax.stages.Lowered:
        """`() -> state`, all zeros."""
        abstract = self.abstract_state()

        def zeros() -> DeviceState:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)

        return jax.jit(zeros, out_shardings=shardings_of(self._mesh, self.state_specs())).lower()

    def abstract_state(self) -> DeviceState:
        """Shapes and dtypes of the device state, over all shards."""
        sizes, config, layout = self._sizes, self._config, self._layout
        num_blocks = tuple(sizes.num_ranks * count for count in sizes.num_blocks)
        shapes = pool_shapes(config, layout, num_blocks, sizes.block_size)
        pools = tuple(layout.backend.abstract_pool(shape) for shape in shapes)
        vocab = layout.vocab_rows(config)
        sampler = abstract_state(sizes.max_num_seqs, vocab, sizes.slot, sizes.num_ranks)
        num_states = sizes.num_ranks * sizes.num_states
        return DeviceState(pools, sampler, abstract_states(config, layout, num_states))

    def state_specs(self) -> DeviceState:
        """The split of the state, as the attention backend and the sampler define it."""
        state = self.abstract_state()
        kv = (self._layout.backend.pool_specs(),) * len(state.kv)
        return DeviceState(kv, state_specs(), (state_pool_specs(),) * len(state.recurrent))

    def _step(
        self,
        leaves: list[jax.Array],
        state: DeviceState,
        inputs: StepInput,
        adapters: Any,
        rows_MND: Any,
        *,
        bucket: Bucket,
    ) -> tuple[StepOutput, jax.Array, DeviceState]:
        model, inputs = self._merge(leaves), self._own(inputs)
        ragged, token_ids_T = ragged_of(inputs, state.sampler, bucket)
        images = None
        if inputs.image_start_M is not None:
            images = in_step(rows_MND, inputs.image_start_M, inputs.image_size_M)
            ragged = with_images(ragged, images)
        chosen = None
        if self._layout.adapters is not None:
            chosen = choose(adapters, inputs.adapter_S[ragged.row_T], self._layout.adapters)
        x_TD, pools = model(
            token_ids_T,
            (*state.kv, *state.recurrent),
            ragged,
            row_tokens=bucket.row_tokens,
            adapters=chosen,
            images=images,
        )
        last_S = jnp.clip(inputs.query_start_S1[1:] - 1, 0)
        rows = x_TD if bucket.draws_everywhere else x_TD[last_S]
        with jax.named_scope("sample"):
            logits_SV = model.logits(rows)
            drawn, sampler = sample(logits_SV, state.sampler, inputs.sampling)
        prompt, pooled = None, None
        if bucket.row_tokens is None:
            prompt = prompt_logprobs(model, x_TD, inputs.target_T)
            pooled = pool(x_TD, inputs.row_T, inputs.target_T, bucket.num_rows)
        kv, recurrent = pools[: len(state.kv)], pools[len(state.kv) :]
        return StepOutput(drawn, prompt, pooled), logits_SV, DeviceState(kv, sampler, recurrent)

    def _merge(self, leaves: list[jax.Array]) -> Decoder:
        model: Decoder = nnx.merge(self._graphdef, jax.tree.unflatten(self._treedef, leaves))
        return model

    def _own[T](self, inputs: T) -> T:
        """This rank's part of the inputs of all ranks."""
        if self._sizes.num_ranks == 1:
            return inputs
        rank = jax.lax.axis_index(DATA)
        part: T = jax.tree.map(lambda leaf: leaf[rank], inputs)
        return part
