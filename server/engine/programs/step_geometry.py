"""Where a step's tokens are: their rows, positions and blocks, as attention reads them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.attention.base import Ragged, StateSlots
from models.vision.step_images import StepImages
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.step_input import StepInput
from server.engine.programs.sampling.sampler import SamplerState


def ragged_of(inputs: StepInput, sampler: SamplerState, bucket: Bucket) -> tuple[Ragged, jax.Array]:
    """The step's geometry, and its token ids including those still in flight."""
    num_rows = inputs.seq_lens_S.shape[0]
    row_T = jnp.minimum(inputs.row_T, num_rows - 1)
    slot = inputs.sampling.slot
    drawn_T = sampler.last_tokens_N[slot if bucket.num_drafts else slot[row_T]]
    ragged = Ragged(
        positions_T=inputs.positions_T,
        row_T=row_T,
        is_padding_T=inputs.row_T == num_rows,
        block_tables_KSB=inputs.block_tables_KSB,
        seq_lens_S=inputs.seq_lens_S,
        query_start_S1=inputs.query_start_S1,
        num_decodes=inputs.num_decodes[0],
        num_rows=jnp.sum(jnp.diff(inputs.query_start_S1) > 0, dtype=jnp.int32),
        slots=None if inputs.states_4S is None else StateSlots(*inputs.states_4S),
    )
    return ragged, jnp.where(inputs.token_ids_T < 0, drawn_T, inputs.token_ids_T)


def with_images(ragged: Ragged, images: StepImages) -> Ragged:
    """The geometry of a step in which the tokens of an image see one another."""
    last_seen_T = images.last_seen(ragged.positions_T)
    return ragged._replace(
        last_seen_T=last_seen_T, image_start_M=images.start_M, image_size_M=images.size_M
    )
