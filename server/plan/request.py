"""The input of a plan, and the answers that arithmetic on shapes can give.

A request is a model, a slice and the settings of a server. Its blueprint is the blueprint that the
server would draw. Nothing is compiled here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from models.attention.choice import BackendError
from models.config import ModelConfig
from models.sharding import MeshError
from models.weights.loading import abstract_decoder
from server.config.engine_config import EngineConfig
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.programs.blueprint.blueprint import (
    Blueprint,
    choose_layout,
    make_blueprint,
    measure,
)
from server.engine.programs.blueprint.chip_memory import ChipMemory, SizeError, kind_bytes
from server.engine.programs.blueprint.mesh_choice import choose_mesh, choose_split
from server.engine.programs.blueprint.platform_defaults import ACCELERATOR_BLOCK_SIZE
from server.engine.programs.device_state import StateSizes
from server.plan.slice_types import SliceType


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """`engine` are the settings of the server, `context` the tokens of each sequence."""

    model: str
    config: ModelConfig
    slice: SliceType
    engine: EngineConfig
    context: int

    def changed(self, slice: SliceType | None = None, **settings: Any) -> PlanRequest:
        """The same request for another slice or with other settings."""
        return replace(self, slice=slice or self.slice, engine=replace(self.engine, **settings))

    def shortened(self, context: int) -> PlanRequest:
        """The same request with sequences of `context` tokens."""
        return replace(self.changed(max_model_len=context, kv_context=context), context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one chip must hold for one sequence of the context, in bytes, and the mesh."""

    tensor_size: int
    memory: ChipMemory
    kv: int


def blueprint_for(request: PlanRequest) -> Blueprint:
    """The blueprint that the server would draw.

    Raises MeshError, BackendError or ConfigError; raises SizeError where the KV cache has no room
    for one sequence.
    """
    devices = request.slice.find_devices()
    chip_bytes = request.slice.chip.hbm_bytes
    mesh = choose_mesh(request.config, request.engine, devices, chip_bytes)
    blueprint = make_blueprint(request.config, request.engine, mesh, chip_bytes)
    if blueprint.sizes.sequences_at(request.context) == 0:
        raise SizeError(
            f"there is room for the KV of {kv_tokens(blueprint.sizes):,} tokens, less than one "
            f"sequence of {request.context:,}"
        )
    return blueprint


def need_of(request: PlanRequest) -> Need:
    """What one sequence needs, whether it fits or not. Raises MeshError or BackendError."""
    config, engine = request.config, request.engine
    devices, chip_bytes = request.slice.devices, request.slice.chip.hbm_bytes
    _, size = choose_split(config, engine, "tpu", devices, chip_bytes)
    layout = choose_layout(config, engine, "tpu", size)
    model = abstract_decoder(config, layout)
    block_size = engine.block_size or ACCELERATOR_BLOCK_SIZE
    of_kind = kind_bytes(config, layout, block_size)
    blocks = {
        window: 1 + KVKind(window, 0).blocks_at(request.context, block_size) for window in of_kind
    }
    return Need(
        tensor_size=layout.tensor_size,
        memory=measure(model, layout, engine, chip_bytes),
        kv=sum(blocks[window] * of_kind[window] for window in of_kind),
    )


def has_room(request: PlanRequest) -> bool:
    """Whether the server could start, by arithmetic on shapes."""
    try:
        blueprint_for(request)
    except (SizeError, MeshError, BackendError):
        return False
    return True


def kv_tokens(sizes: StateSizes) -> int:
    """The tokens with room in the KV pool, in layers that keep whole sequences if there are any."""
    return (sizes.kinds[0].num_blocks - 1) * sizes.block_size


def sequences_of_two(request: PlanRequest, blueprint: Blueprint) -> int:
    """The sequences with room in the KV pool that is left next to a second version's weights."""
    memory = blueprint.memory
    if memory is None or memory.for_kv <= memory.weights:
        return 0
    kv_bytes = (memory.for_kv - memory.weights) * blueprint.layout.tensor_size
    settings = replace(request.engine, num_blocks=0, kv_cache_bytes=kv_bytes)
    chip_bytes = request.slice.chip.hbm_bytes
    try:
        with_both = make_blueprint(request.config, settings, blueprint.mesh, chip_bytes)
    except SizeError:
        return 0
    return with_both.sizes.sequences_at(request.context)
