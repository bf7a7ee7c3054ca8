"""From a checkpoint to sharded device arrays, leaf by leaf.

Every leaf of the model has a source here: which tensors of the Hugging Face layout it is made of
and how one shard of it is cut. A device's shard is read alone, so no more than one leaf's shard is
held on the host. Knows no file format (`checkpoint` does) and nothing of what the weights compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.decoder import Decoder, DecoderLayout, padded_vocab
from models.sharding import TENSOR, partition_spec, tensor_size

type Progress = Callable[[str, float], None]
type Index = tuple[slice, ...]


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
    """Where a leaf (of one layer) comes from."""

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The checkpoint tensors it reads, with the shapes they must have."""

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        """One shard of the leaf, in the checkpoint's dtype."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """A vector that every shard holds in full."""

    name: str
    size: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield self.name, (self.size,)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return checkpoint.read(self.name)


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """An embedding [V, D], split by rows and padded with zeros to even shards."""

    name: str
    vocab: int
    hidden: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield self.name, (self.vocab, self.hidden)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        each = padded_vocab(self.vocab, shard.count)
        start, stop = shard.index * each, min((shard.index + 1) * each, self.vocab)
        if start >= stop:
            return np.zeros((each, self.hidden), np.float32)
        rows = checkpoint.read(self.name, slice(start, stop))
        return np.pad(rows, ((0, each - len(rows)), (0, 0)))


@dataclass(frozen=True, slots=True)
class _SplitInput:
    """A matrix stored [out, in] whose input axis is split; the leaf is [in, out]."""

    name: str
    out_size: int
    in_size: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield self.name, (self.out_size, self.in_size)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        return checkpoint.read(self.name, slice(None), shard.part(self.in_size)).T


@dataclass(frozen=True, slots=True)
class _GateUp:
    """Gate and up, each split by output, side by side within a shard. `tail` is the input axis."""

    gate: str
    up: str
    size: int
    tail: tuple[int, ...]

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield self.gate, (self.size, *self.tail)
        yield self.up, (self.size, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        part = shard.part(self.size)
        halves = [checkpoint.read(name, part) for name in (self.gate, self.up)]
        return np.concatenate(halves).T


@dataclass(frozen=True, slots=True)
class _Qkv:
    """Queries, keys and values grouped by KV head. `tail` is the input axis, empty for a bias."""

    prefix: str
    suffix: str
    config: ModelConfig
    tail: tuple[int, ...]

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        config = self.config
        for letter, heads in (
            ("q", config.num_heads),
            ("k", config.num_kv_heads),
            ("v", config.num_kv_heads),
        ):
            yield self._name(letter), (heads * config.head_dim, *self.tail)

    def read(self, checkpoint: Checkpoint, shard: Shard) -> np.ndarray:
        head_dim, kv_heads = self.config.head_dim, self.config.num_kv_heads
        copies = max(1, shard.count // kv_heads)
        local = shard.part(kv_heads * copies)
        own = slice(local.start // copies, -(-local.stop // copies))
        num_local = local.stop - local.start
        parts = [checkpoint.read(self._name("q"), shard.part(self.config.num_heads * head_dim))]
        rows = slice(own.start * head_dim, own.stop * head_dim)
        parts += [checkpoint.read(self._name(letter), rows) for letter in ("k", "v")]
        heads = [part.reshape(num_local, -1, head_dim, *self.tail) for part in parts]
        return np.concatenate(heads, axis=1).reshape(-1, *self.tail).T

    def _name(self, letter: str) -> str:
        return f"{self.prefix}.{letter}_proj.{self.suffix}"


def abstract_decoder(config: ModelConfig, layout: DecoderLayout) -> Decoder:
    """The model with shapes in place of arrays."""
    model: Decoder = nnx.eval_shape(lambda: Decoder(nnx.Rngs(0), config, layout))
    return model


def leaf_shardings(model: Decoder, mesh: Mesh) -> list[NamedSharding]:
    """The sharding of every leaf, in flattening order."""
    return [_sharding(variable, mesh) for _, variable in _variables(model)]


def load_leaves(
    model: Decoder,
    checkpoint: Checkpoint,
    layout: DecoderLayout,
    mesh: Mesh,
    progress: Progress = lambda detail, fraction: None,
) -> list[jax.Array]:
    """The leaves of `model` from a checkpoint, sharded over `mesh`, in flattening order.

    Every tensor's presence and shape is checked before the first is read. Raises CheckpointError.
    """
    config = model.config
    variables = list(_variables(model))
    sources = [_sources(path, config) for path, _ in variables]
    for name, shape in (need for group in sources for one in group for need in one.tensors()):
        checkpoint.check(name, shape)
    leaves, done, total = [], 0, sum(variable.size for _, variable in variables)
    for (_, variable), group in zip(variables, sources, strict=True):
        leaves.append(_load_leaf(variable, group, checkpoint, layout, mesh))
        done += variable.size
        progress("loading weights", done / total)
    return leaves


def random_leaves(
    config: ModelConfig, layout: DecoderLayout, mesh: Mesh, seed: int = 0
) -> list[jax.Array]:
    """Leaves drawn by the declarations' initializers: for tests and benchmarks."""
    shardings = leaf_shardings(abstract_decoder(config, layout), mesh)

    def make() -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(Decoder(nnx.Rngs(seed), config, layout)))

    made: list[jax.Array] = jax.jit(make, out_shardings=shardings)()
    return made


def _variables(model: Decoder) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield from nnx.to_flat_state(nnx.state(model))


def _sharding(variable: Any, mesh: Mesh) -> NamedSharding:
    axes = variable.get_metadata("logical_axes")
    stacked: tuple[str | None, ...] = ("layers",) * (len(variable.shape) - len(axes))
    return NamedSharding(mesh, partition_spec(stacked + axes))


def _load_leaf(
    variable: Any, sources: list[Source], checkpoint: Checkpoint, layout: DecoderLayout, mesh: Mesh
) -> jax.Array:
    sharding = _sharding(variable, mesh)
    sharded_axis = next((i for i, axis in enumerate(sharding.spec) if axis == TENSOR), None)
    stacked = layout.stacked and len(sources) > 1

    def read(index: Index | None) -> np.ndarray:
        shard = Shard(0, tensor_size(mesh))
        if index is not None and sharded_axis is not None:
            each = variable.shape[sharded_axis] // shard.count
            shard = Shard((index[sharded_axis].start or 0) // each, shard.count)
        parts = (source.read(checkpoint, shard).astype(variable.dtype) for source in sources)
        return np.stack(list(parts)) if stacked else np.ascontiguousarray(next(parts))

    return jax.make_array_from_callback(variable.shape, sharding, read)


def _sources(path: tuple[Any, ...], config: ModelConfig) -> list[Source]:
    """One source, or for a stacked leaf one a layer. `path` is the leaf's place in the model."""
    if path[0] != "layers":
        return [_top_source(path, config)]
    if isinstance(path[1], int):
        return [_layer_source(path[1], path[2:], config)]
    return [_layer_source(layer, path[1:], config) for layer in range(config.num_layers)]


def _top_source(path: tuple[Any, ...], config: ModelConfig) -> Source:
    if path[0] == "norm":
        return _Whole("model.norm.weight", config.hidden_size)
    name = "lm_head.weight" if path[0] == "head" else "model.embed_tokens.weight"
    return _Vocabulary(name, config.vocab_size, config.hidden_size)


def _layer_source(layer: int, path: tuple[Any, ...], config: ModelConfig) -> Source:
    prefix = f"model.layers.{layer}"
    d, f = config.hidden_size, config.mlp_size
    suffix = "bias" if path[-1] == "bias" else "weight"
    tail = () if suffix == "bias" else (d,)
    match path[0]:
        case "input_norm":
            return _Whole(f"{prefix}.input_layernorm.weight", d)
        case "post_norm":
            return _Whole(f"{prefix}.post_attention_layernorm.weight", d)
        case "q_norm" | "k_norm":
            return _Whole(f"{prefix}.self_attn.{path[0]}.weight", config.head_dim)
        case "qkv":
            return _Qkv(f"{prefix}.self_attn", suffix, config, tail)
        case "output":
            name = f"{prefix}.self_attn.o_proj.{suffix}"
            in_size = config.num_heads * config.head_dim
            return _SplitInput(name, d, in_size) if tail else _Whole(name, d)
        case _ if path[1] == "gate_up":
            gate, up = f"{prefix}.mlp.gate_proj.{suffix}", f"{prefix}.mlp.up_proj.{suffix}"
            return _GateUp(gate, up, f, tail)
        case _:
            name = f"{prefix}.mlp.down_proj.{suffix}"
            return _SplitInput(name, d, f) if tail else _Whole(name, d)
