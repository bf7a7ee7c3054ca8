"""The least time that a step can take on a chip, and the part of it that attention takes.

A step must read its weights and the KV of its context once, and must do its multiplications. The
roofline is the longer of the two times, at the chip's bandwidth and at its peak. Attention kernels
carry no cycles, so a prediction adds attention at its own roofline to the compiler's cycles. All
sizes come from the shapes that are compiled; nothing is measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flax import nnx

from models.config import ModelConfig
from models.weights.loading import leaf_shardings
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.blueprint.chip_memory import block_bytes, state_bytes
from server.plan.slice_types import Chip


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One chip's share of a model. `*_params` are counts, `*_bytes` are their bytes.

    `kv_bytes_of_token` are those of one token's keys and values in each layer that has them,
    `state_bytes` those of one sequence's state in all layers that have one. The embedding counts
    only where it is also the head: looking up a few rows costs nothing.
    """

    config: ModelConfig
    tensor_size: int
    dense_bytes: int
    dense_params: int
    head_params: int
    expert_bytes: int
    expert_params: int
    kv_bytes_of_token: tuple[float, ...]
    state_bytes: int = 0

    def decode(self, chip: Chip, *, batch: int, context: int) -> Roofline:
        """A step with one token for each of `batch` sequences of `context` tokens."""
        attended = [min(window or context, context) for window in self.config.kv_windows]
        kv = batch * math.sumprod(attended, self.kv_bytes_of_token)
        # A step reads and writes the state of every sequence.
        states = 2 * batch * self.state_bytes
        flops = 2 * batch * (self._params_of_token + self.head_params)
        attention = 4 * batch * math.sumprod(attended, self._heads_sizes)
        return Roofline(
            memory_s=(self._read_bytes(batch) + kv + states) / chip.hbm_bytes_per_s,
            compute_s=(flops + attention) / chip.flops,
            attention_s=kv / chip.hbm_bytes_per_s,
        )

    def prefill(self, chip: Chip, *, tokens: int, context: int, logit_rows: int = 1) -> Roofline:
        """A chunk of `tokens`: the mean over a prompt of `context` tokens."""
        windows = [min(window or context, context) for window in self.config.kv_windows]
        kv = math.sumprod(windows, self.kv_bytes_of_token)
        # A token at position p sees min(p + 1, window) tokens: on average w - w^2 / 2c.
        attended = [window - window**2 / (2 * context) for window in windows]
        flops = 2 * tokens * self._params_of_token + 2 * logit_rows * self.head_params
        attention = 4 * tokens * math.sumprod(attended, self._heads_sizes)
        return Roofline(
            memory_s=(self._read_bytes(tokens) + kv) / chip.hbm_bytes_per_s,
            compute_s=(flops + attention) / chip.flops,
            attention_s=max(kv / chip.hbm_bytes_per_s, attention / chip.flops),
        )

    def experts_s(self, chip: Chip, *, tokens: int) -> float:
        """The least seconds that the experts' products of a step take; 0 without experts."""
        moe = self.config.moe
        if moe is None:
            return 0.0
        read = (self._read_bytes(tokens) - self.dense_bytes) / chip.hbm_bytes_per_s
        used = moe.num_experts_per_token / moe.num_experts * self.expert_params
        return max(read, 2 * tokens * used / chip.flops)

    @property
    def _heads_sizes(self) -> list[float]:
        """The size of one chip's query heads together, in each layer that has keys and values."""
        heads = self.config.num_heads / self.tensor_size
        return [heads * self.config.of_kind(w).head_dim for w in self.config.kv_windows]

    @property
    def _params_of_token(self) -> float:
        moe = self.config.moe
        used = 0.0 if moe is None else moe.num_experts_per_token / moe.num_experts
        return self.dense_params + used * self.expert_params

    def _read_bytes(self, tokens: int) -> float:
        """The bytes of weights that a step reads; of the experts, those likely to be chosen."""
        moe = self.config.moe
        if moe is None:
            return self.dense_bytes
        missed = (1 - moe.num_experts_per_token / moe.num_experts) ** tokens
        return self.dense_bytes + (1 - missed) * self.expert_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The seconds to read and to multiply, and the part of each that attention takes."""

    memory_s: float
    compute_s: float
    attention_s: float

    @property
    def seconds(self) -> float:
        return max(self.memory_s, self.compute_s)

    def predict(self, cycles: int, chip: Chip) -> float:
        """The seconds of a program with so many cycles, plus attention at its roofline."""
        return cycles / chip.clock_hz + self.attention_s


def work_of(blueprint: Blueprint) -> Work:
    """One chip's work, read off the shapes of the blueprint's arrays."""
    counts = {"dense": [0, 0], "head": [0, 0], "expert": [0, 0], "lookup": [0, 0]}
    model, config = blueprint.model, blueprint.config
    variables = nnx.to_flat_state(nnx.state(model))
    for (path, leaf), sharding in zip(
        variables, leaf_shardings(model, blueprint.mesh), strict=True
    ):
        size = math.prod(sharding.shard_shape(leaf.shape))
        count = counts[_role(path, config.tie_embeddings)]
        count[0] += size
        count[1] += size * leaf.dtype.itemsize
    block_size = blueprint.sizes.block_size
    of_layer = block_bytes(config, blueprint.layout, block_size)
    return Work(
        config=config,
        tensor_size=blueprint.layout.tensor_size,
        dense_bytes=counts["dense"][1] + counts["head"][1],
        dense_params=counts["dense"][0],
        head_params=counts["head"][0],
        expert_bytes=counts["expert"][1],
        expert_params=counts["expert"][0],
        kv_bytes_of_token=tuple(of_layer[w] / block_size for w in config.kv_windows),
        state_bytes=state_bytes(config, blueprint.layout, 1),
    )


def _role(path: tuple[Any, ...], tie_embeddings: bool) -> str:
    if path[0] == "head" or (path[0] == "embedding" and tie_embeddings):
        return "head"
    if path[0] == "embedding":
        return "lookup"
    return "expert" if "experts" in path else "dense"
