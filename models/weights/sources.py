"""The sources of weights: how tensors of the Hugging Face layout are cut and joined into leaves.

A source reads exactly one shard of one layer's leaf. Sources fold the norm before a product into
its matrix, and quantize matrices, both in float32. Knows neither file formats nor what the weights
compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.checkpoint.checkpoint import Checkpoint
from models.decoder.layout import padded_vocab
from models.decoder.quantization import column_scales, quantize_columns

type Needed = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` of `count` along the tensor axis."""

    index: int
    count: int

    def part(self, size: int) -> slice:
        """This shard's even part of `size` elements."""
        each = size // self.count
        return slice(self.index * each, (self.index + 1) * each)


class Source(Protocol):
    """The source of one leaf of one layer."""

    def tensors(self) -> Needed:
        """The checkpoint tensors that the source reads, with their required shapes."""

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        """One shard of the leaf, in the checkpoint's dtype or float32."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor that every shard holds in full, or its transpose."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    def tensors(self) -> Needed:
        yield self.name, self.shape

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        value = checkpoint.read(self.name)
        return value.T if self.transposed else value


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm's weight, times a factor; with `unit_offset` stored as its difference from one."""

    name: str
    size: int
    unit_offset: bool
    factor: float = 1.0

    def tensors(self) -> Needed:
        yield self.name, (self.size,)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        weight = checkpoint.read(self.name).astype(np.float32) + np.float32(self.unit_offset)
        return weight * np.float32(self.factor)


@dataclass(frozen=True, slots=True)
class Ones:
    """Ones, not in the checkpoint. The shape is over all shards, which split the first axis."""

    shape: tuple[int, ...]

    def tensors(self) -> Needed:
        yield from ()

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return np.ones((self.shape[0] // shard.count, *self.shape[1:]), np.float32)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """An embedding [V, D], split by rows and padded with zeros to even shards."""

    name: str
    vocab: int
    hidden: int

    def tensors(self) -> Needed:
        yield self.name, (self.vocab, self.hidden)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        each = padded_vocab(self.vocab, shard.count)
        start, stop = shard.index * each, min((shard.index + 1) * each, self.vocab)
        if start >= stop:
            return np.zeros((each, self.hidden), np.float32)
        rows = checkpoint.read(self.name, slice(start, stop))
        return np.pad(rows, ((0, each - len(rows)), (0, 0)))


@dataclass(frozen=True, slots=True)
class SplitInput:
    """A matrix stored [out, in] whose input axis is split; the leaf is [in, out]."""

    name: str
    out_size: int
    in_size: int

    def tensors(self) -> Needed:
        yield self.name, (self.out_size, self.in_size)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return checkpoint.read(self.name, slice(None), shard.part(self.in_size)).T


@dataclass(frozen=True, slots=True)
class GateUp:
    """Gate and up, each split by output and joined within a shard. `tail` is the input axis."""

    gate: str
    up: str
    size: int
    tail: tuple[int, ...]

    def tensors(self) -> Needed:
        yield self.gate, (self.size, *self.tail)
        yield self.up, (self.size, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        part = shard.part(self.size)
        halves = [checkpoint.read(name, part) for name in (self.gate, self.up)]
        return np.concatenate(halves).T


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix stored [out, in] whose output axis is split; the leaf is [in, out]. Or a bias."""

    name: str
    size: int
    tail: tuple[int, ...]

    def tensors(self) -> Needed:
        yield self.name, (self.size, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return checkpoint.read(self.name, shard.part(self.size)).T


@dataclass(frozen=True, slots=True)
class Section:
    """`size` rows of a tensor of `total` rows, from row `first` on."""

    name: str
    first: int
    size: int
    total: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Sections of matrices stored [out, in], each split by output, joined within a shard.

    The leaf is [in, out]. `tail` is the input axis, which may have more axes before it.
    """

    sections: tuple[Section, ...]
    tail: tuple[int, ...]

    def tensors(self) -> Needed:
        for name, total in dict.fromkeys((each.name, each.total) for each in self.sections):
            yield name, (total, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        parts = []
        for each in self.sections:
            own = shard.part(each.size)
            rows = slice(each.first + own.start, each.first + own.stop)
            parts.append(checkpoint.read(each.name, rows))
        return np.concatenate(parts).T


def sections(*tensors: tuple[str, tuple[int, ...]]) -> tuple[Section, ...]:
    """Those of tensors, by name, with the sizes that each is made of."""
    return tuple(
        Section(name, sum(sizes[:i]), size, sum(sizes))
        for name, sizes in tensors
        for i, size in enumerate(sizes)
    )


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values KV head by head, k then v. `tail` is the input axis, empty for a bias.

    `names` are the tensors of keys and of values, or that of keys alone. With more shards than KV
    heads, neighbouring shards hold copies of one head.
    """

    names: tuple[str, ...]
    kv_heads: int
    head_dim: int
    tail: tuple[int, ...]

    def tensors(self) -> Needed:
        for name in self.names:
            yield name, (self.kv_heads * self.head_dim, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        copies = max(1, shard.count // self.kv_heads)
        local = shard.part(self.kv_heads * copies)
        first, last = local.start // copies, -(-local.stop // copies)
        rows = slice(first * self.head_dim, last * self.head_dim)
        parts = [checkpoint.read(name, rows) for name in self.names]
        heads = [part.reshape(last - first, 1, self.head_dim, *self.tail) for part in parts]
        return np.concatenate(heads, axis=1).reshape(-1, *self.tail).T


@dataclass(frozen=True, slots=True)
class Folded:
    """A matrix [..., in, out], its rows multiplied by the weight of the norm before the product."""

    matrix: Source
    norm: Norm

    def tensors(self) -> Needed:
        yield from self.matrix.tensors()
        yield from self.norm.tensors()

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        weight = self.norm.read(checkpoint, shard)
        return self.matrix.read(checkpoint, shard).astype(np.float32) * weight[:, None]


@dataclass(frozen=True, slots=True)
class Mapped:
    """A function of another source's shard: its int8 columns, or their scales."""

    source: Source
    function: Callable[[np.ndarray], np.ndarray]

    def tensors(self) -> Needed:
        yield from self.source.tensors()

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return self.function(self.source.read(checkpoint, shard))


def quantized(source: Source) -> Source:
    """The matrix as int8."""
    return Mapped(source, quantize_columns)


def scales_of(source: Source) -> Source:
    """The scales of the matrix quantized, one row."""
    return Mapped(source, lambda w: column_scales(w)[None])


def expert_scales_of(source: Source) -> Source:
    """The scales of every expert's matrix: [E, out]."""
    return Mapped(source, column_scales)
