"""What a plan is asked, and what arithmetic on shapes alone can answer.

A question is a model, a slice and the settings of a server. Its blueprint is the one that server
would draw; nothing is compiled here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from models.attention.choice import BackendError
from models.config import ModelConfig
from models.sharding import MeshError, make_mesh
from models.weights import abstract_decoder
from server.config import EngineConfig
from server.engine.blueprint import Blueprint, choose_layout, draw_blueprint, measure
from server.engine.sizing import ChipMemory, SizeError, block_bytes
from server.plan.slices import Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`engine` is how the server would be started; `context` the tokens of each sequence."""

    model: str
    config: ModelConfig
    slice: Slice
    engine: EngineConfig
    context: int

    def changed(self, slice: Slice | None = None, **settings: Any) -> Question:
        """The same question of another slice or of other settings."""
        return replace(self, slice=slice or self.slice, engine=replace(self.engine, **settings))

    def shortened(self, context: int) -> Question:
        """The same question of shorter sequences."""
        return replace(self.changed(max_model_len=context), context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a chip would have to hold for one sequence of the context: bytes, and the mesh."""

    tensor_size: int
    memory: ChipMemory
    kv: int


def draw(question: Question) -> Blueprint:
    """The server's blueprint.

    Raises MeshError or BackendError, or SizeError where not even one sequence has room.
    """
    devices = question.slice.find_devices()
    mesh = make_mesh(question.config, question.engine.tensor_parallel_size, devices)
    chip_bytes = question.slice.chip.hbm_bytes
    blueprint = draw_blueprint(question.config, question.engine, mesh, chip_bytes)
    if sequences_at(blueprint, question.context) == 0:
        tokens = (min(blueprint.sizes.num_blocks) - 1) * blueprint.sizes.block_size
        raise SizeError(
            f"there is room for the KV of {tokens:,} tokens, less than one sequence of "
            f"{question.context:,}"
        )
    return blueprint


def need_of(question: Question) -> Need:
    """What is needed at least, whether or not there is room. Raises MeshError or BackendError."""
    config, engine = question.config, question.engine
    mesh = make_mesh(config, engine.tensor_parallel_size, question.slice.find_devices())
    layout = choose_layout(config, engine, mesh)
    model = abstract_decoder(config, layout)
    block_size = engine.block_size or 128
    blocks = 1 + -(-question.context // block_size)
    return Need(
        tensor_size=layout.tensor_size,
        memory=measure(model, layout, mesh, engine, question.slice.chip.hbm_bytes),
        kv=blocks * block_bytes(config, layout, block_size),
    )


def has_room(question: Question) -> bool:
    """Whether the server could start, by arithmetic."""
    try:
        draw(question)
    except (SizeError, MeshError, BackendError):
        return False
    return True


def sequences_at(blueprint: Blueprint, context: int) -> int:
    """Sequences of `context` tokens that the KV pool holds at once."""
    sizes = blueprint.sizes
    return (min(sizes.num_blocks) - 1) // -(-context // sizes.block_size)


def sequences_of_two(blueprint: Blueprint, context: int) -> int:
    """The same for the pool that is left where a second version of the weights has room too."""
    memory, block_size = blueprint.memory, blueprint.sizes.block_size
    if memory is None:
        return 0
    of_block = block_bytes(blueprint.config, blueprint.layout, block_size)
    num_blocks = max(0, memory.for_kv - memory.weights) // of_block
    return max(0, num_blocks - 1) // -(-context // block_size)
