"""What the engine keeps on the device next to the weights, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from models.config import AnyVisionConfig
from models.decoder.decoder import KVPools
from models.decoder.state_pool import StatePool
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.image_input import ImageInput, pack_image, stack_images
from server.engine.programs.inputs.slot_input import SlotSizes
from server.engine.programs.inputs.step_input import (
    DrawInput,
    StepInput,
    empty_draw,
    empty_input,
    stack_draws,
    stack_ranks,
)
from server.engine.programs.sampling.sampler import (
    SamplerState,
)


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Room for the images of one step of one data rank.

    At most `num_images`, as `vision` reads them.
    """

    vision: AnyVisionConfig
    num_images: int

    @property
    def num_tokens(self) -> int:
        """The most tokens of an image."""
        return self.vision.num_tokens

    def num_images_in(self, bucket: Bucket) -> int:
        """How many images a step of this bucket has room for; 0 where it has none at all."""
        if bucket.row_tokens is not None:
            return 0
        return min(self.num_images, bucket.num_tokens // self.vision.sizes.least_tokens)


class DeviceState(NamedTuple):
    """All that the engine keeps on the device next to the weights; donated to every program."""

    kv: KVPools
    sampler: SamplerState
    recurrent: tuple[StatePool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSizes:
    """The sizes of each data rank's state. `kinds` has one entry per window of the config.

    `num_words` words have a bit for every row of the embedding. A draw has `draw_rows` rows.
    `has_adapters`: rows may have adapters. `num_host_blocks` is how many blocks of each kind are
    kept in host memory; () is none. `images` is None where no image is read. `num_states` is
    how many recurrent states there is room for: one for each sequence, snapshots, and one more; 0
    where no layer has a state.
    """

    num_ranks: int = 1
    kinds: tuple[KVKind, ...]
    block_size: int
    max_num_seqs: int
    slot: SlotSizes
    num_words: int
    draw_rows: int
    has_adapters: bool = False
    num_states: int = 0
    num_host_blocks: tuple[int, ...] = ()
    images: ImageSizes | None = None

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """The number of blocks per layer, by kind."""
        return tuple(kind.num_blocks for kind in self.kinds)

    def sequences_at(self, context: int) -> int:
        """The number of sequences of `context` tokens that fit at the same time."""
        return min(
            (kind.num_blocks - 1) // kind.blocks_at(context, self.block_size) for kind in self.kinds
        )

    @property
    def table_size(self) -> int:
        """The number of blocks that the longest sequence needs."""
        return -(-self.slot.max_model_len // self.block_size)

    def empty_input(self, bucket: Bucket) -> StepInput:
        """The input of a step of only padding."""
        of_rank = empty_input(
            bucket,
            len(self.kinds),
            self.table_size,
            self.scratch_slot,
            has_adapters=self.has_adapters,
            num_states=self.num_states,
            num_images=self.num_images_in(bucket),
        )
        return stack_ranks([of_rank] * self.num_ranks)

    def empty_draw(self) -> DrawInput:
        """The input of a draw that limits no row."""
        of_rank = empty_draw(self.draw_rows, self.num_words, self.scratch_slot)
        return stack_draws([of_rank] * self.num_ranks)

    def num_images_in(self, bucket: Bucket) -> int:
        """How many images a step of this bucket has room for."""
        return 0 if self.images is None else self.images.num_images_in(bucket)

    def empty_image(self) -> ImageInput:
        """The input of an encoding of no image."""
        assert self.images is not None
        of_rank = pack_image(None, self.images.vision, self.images.num_images)
        return stack_images([of_rank] * self.num_ranks)

    @property
    def num_snapshots(self) -> int:
        """The recurrent states that are kept for prefixes; their slots follow the sequences'."""
        return max(0, self.num_states - self.max_num_seqs - 1)

    @property
    def scratch_slot(self) -> int:
        """The slot after the last; rows that do not sample write to it."""
        return self.max_num_seqs
