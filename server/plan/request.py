"""What a plan is asked, and what arithmetic on shapes alone can answer.

A question is a model, a slice and the settings of a server. Its blueprint is the one that server
would draw; nothing is compiled here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from models.attention.choice import BackendError
from models.config import ModelConfig
from models.sharding import MeshError
from models.weights.weights import abstract_decoder
from server.config import EngineConfig
from server.engine.policy.layer_kinds import KVKind
from server.engine.programs.blueprint import (
    ACCELERATOR_BLOCK_SIZE,
    Blueprint,
    choose_layout,
    make_blueprint,
    measure,
)
from server.engine.programs.mesh_choice import choose_mesh, choose_split
from server.engine.programs.sizing import ChipMemory, SizeError, layer_block_bytes
from server.engine.programs.step_program import StateSizes
from server.plan.slice_types import SliceType


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """`engine` is how the server would be started; `context` the tokens of each sequence."""

    model: str
    config: ModelConfig
    slice: SliceType
    engine: EngineConfig
    context: int

    def changed(self, slice: SliceType | None = None, **settings: Any) -> PlanRequest:
        """The same question of another slice or of other settings."""
        return replace(self, slice=slice or self.slice, engine=replace(self.engine, **settings))

    def shortened(self, context: int) -> PlanRequest:
        """The same question of shorter sequences."""
        return replace(self.changed(max_model_len=context, kv_context=context), context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a chip would have to hold for one sequence of the context: bytes, and the mesh."""

    tensor_size: int
    memory: ChipMemory
    kv: int


def blueprint_for(question: PlanRequest) -> Blueprint:
    """The server's blueprint.

    Raises MeshError, BackendError or ConfigError, or SizeError where not even one sequence has
    room.
    """
    devices = question.slice.find_devices()
    chip_bytes = question.slice.chip.hbm_bytes
    mesh = choose_mesh(question.config, question.engine, devices, chip_bytes)
    blueprint = make_blueprint(question.config, question.engine, mesh, chip_bytes)
    if blueprint.sizes.sequences_at(question.context) == 0:
        raise SizeError(
            f"there is room for the KV of {kv_tokens(blueprint.sizes):,} tokens, less than one "
            f"sequence of {question.context:,}"
        )
    return blueprint


def need_of(question: PlanRequest) -> Need:
    """What is needed at least, whether or not there is room. Raises MeshError or BackendError."""
    config, engine = question.config, question.engine
    devices, chip_bytes = question.slice.devices, question.slice.chip.hbm_bytes
    _, size = choose_split(config, engine, "tpu", devices, chip_bytes)
    layout = choose_layout(config, engine, "tpu", size)
    model = abstract_decoder(config, layout)
    block_size = engine.block_size or ACCELERATOR_BLOCK_SIZE
    of_layer = layer_block_bytes(config, layout, block_size)
    kinds = [KVKind(window, 0) for window in config.layer_windows]
    blocks = sum(1 + kind.blocks_at(question.context, block_size) for kind in kinds)
    return Need(
        tensor_size=layout.tensor_size,
        memory=measure(model, layout, engine, chip_bytes),
        kv=blocks * of_layer,
    )


def has_room(question: PlanRequest) -> bool:
    """Whether the server could start, by arithmetic."""
    try:
        blueprint_for(question)
    except (SizeError, MeshError, BackendError):
        return False
    return True


def kv_tokens(sizes: StateSizes) -> int:
    """Tokens that the KV pool holds, in the layers that keep all of a sequence if there are any."""
    return (sizes.kinds[0].num_blocks - 1) * sizes.block_size


def sequences_of_two(question: PlanRequest, blueprint: Blueprint) -> int:
    """The same for the pool that is left where a second version of the weights has room too."""
    memory = blueprint.memory
    if memory is None or memory.for_kv <= memory.weights:
        return 0
    kv_bytes = (memory.for_kv - memory.weights) * blueprint.layout.tensor_size
    settings = replace(question.engine, num_blocks=0, kv_cache_bytes=kv_bytes)
    chip_bytes = question.slice.chip.hbm_bytes
    try:
        beside = make_blueprint(question.config, settings, blueprint.mesh, chip_bytes)
    except SizeError:
        return 0
    return beside.sizes.sequences_at(question.context)
