"""The sources of a mixture of experts: tensors of single experts, or one tensor for all of a layer.

The shards split the experts. Knows neither file formats nor what the weights compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.checkpoint.checkpoint import Checkpoint
from models.weights.sources import Needed, Shard, Source


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """One matrix of every expert, stacked [E, in, out] and split by expert."""

    experts: tuple[Source, ...]

    def tensors(self) -> Needed:
        for expert in self.experts:
            yield from expert.tensors()

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        own = self.experts[shard.part(len(self.experts))]
        return np.stack([expert.read(checkpoint, Shard(0, 1)) for expert in own])


@dataclass(frozen=True, slots=True)
class JoinedExperts:
    """One tensor for all experts of a layer [E, ...], split by expert; the leaf is the same.

    If its columns alternate between gate and up, the leaf has all of gate and then all of up. If it
    is stored [E, out, in], the leaf is [E, in, out].
    """

    name: str
    shape: tuple[int, ...]
    alternating: bool = False
    transposed: bool = False

    def tensors(self) -> Needed:
        yield self.name, self.shape

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        value = checkpoint.read(self.name, shard.part(self.shape[0]))
        if self.transposed:
            return value.swapaxes(1, 2)
        if not self.alternating:
            return value
        return np.concatenate([value[..., ::2], value[..., 1::2]], axis=-1)


@dataclass(frozen=True, slots=True)
class ScaledExperts:
    """The matrices of all experts of a layer, each multiplied by a number of the tensor [E]."""

    experts: JoinedExperts
    scale: str

    def tensors(self) -> Needed:
        yield from self.experts.tensors()
        yield self.scale, self.experts.shape[:1]

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        scale = checkpoint.read(self.scale, shard.part(self.experts.shape[0])).astype(np.float32)
        return self.experts.read(checkpoint, shard).astype(np.float32) * scale[:, None, None]
