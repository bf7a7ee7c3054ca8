"""The programs that make rows of images, and keep them on the device for the step that follows.

A data rank has room for as many images as its largest step. Every rank reads one image at a time,
its shards together. Knows neither prompts nor which step is next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.decoder.decoder import Decoder
from models.decoder.layout import DecoderLayout
from models.sharding import DATA
from models.vision.step_images import StepImages
from server.engine.programs.device_state import ImageSizes, StateSizes
from server.engine.programs.inputs.image_input import ImageInput

# The rows [images of all ranks, tokens, D], the ranks' parts one after another.
ROWS_SPEC = PartitionSpec(DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePrograms:
    """Of a server that reads images. `leaves` are the shapes of the weights, `specs` their split.

    `merge` makes the model of leaves, `own` takes a rank's part of an input of all ranks.
    """

    merge: Callable[[list[jax.Array]], Decoder]
    own: Callable[[ImageInput], ImageInput]
    leaves: list[jax.ShapeDtypeStruct]
    specs: list[PartitionSpec]
    rows: jax.ShapeDtypeStruct
    mesh: Mesh
    sizes: StateSizes

    def lower_make(self) -> jax.stages.Lowered:
        """`() -> rows`, all zeros."""

        def zeros() -> jax.Array:
            return jnp.zeros(self.rows.shape, self.rows.dtype)

        return jax.jit(zeros, out_shardings=self._sharding(ROWS_SPEC)).lower()

    def lower_encode(self) -> jax.stages.Lowered:
        """`(leaves, rows, image input) -> rows`; the rows are donated."""

        def encode(leaves: list[jax.Array], rows_MND: jax.Array, inputs: ImageInput) -> jax.Array:
            tower, image = self.merge(leaves).vision, self.own(inputs)
            assert tower is not None
            found_ND = tower(image.pixels, image.grid).astype(rows_MND.dtype)
            return rows_MND.at[image.number].set(found_ND, mode="drop")

        mapped = jax.shard_map(
            encode,
            mesh=self.mesh,
            in_specs=(self.specs, ROWS_SPEC, PartitionSpec()),
            out_specs=ROWS_SPEC,
            check_vma=False,
        )
        rows = self._sharding(ROWS_SPEC)
        jitted = jax.jit(
            mapped,
            in_shardings=(
                [self._sharding(spec) for spec in self.specs],
                rows,
                self._sharding(PartitionSpec()),
            ),
            out_shardings=rows,
            donate_argnums=1,
        )
        return jitted.lower(self.leaves, self.rows, self.sizes.empty_image())

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)


def abstract_rows(
    width: int, layout: DecoderLayout, images: ImageSizes, num_ranks: int
) -> jax.ShapeDtypeStruct:
    """The shape of all ranks' rows, for a decoder of `width`."""
    shape = num_ranks * images.num_images, images.num_tokens, width
    return jax.ShapeDtypeStruct(shape, layout.activation_dtype)


def row_bytes(width: int, layout: DecoderLayout, images: ImageSizes) -> int:
    """One chip's bytes of the rows: each chip has those of its rank."""
    rows = abstract_rows(width, layout, images, 1)
    return rows.size * rows.dtype.itemsize


def in_step(rows_MND: jax.Array, start_M: jax.Array, size_M: jax.Array) -> StepImages:
    """A step's images: the first of the rows, as many as the step has room for."""
    return StepImages(rows_MND[: len(start_M)], start_M, size_M)
