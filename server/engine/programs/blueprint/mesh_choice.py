"""Chooses how many chips share each layer, and how many data ranks there are.

Each layer is shared by the fewest chips that hold the model and the sequences to serve, because
fewer chips communicate less. The other chips form further data ranks, each with all weights and
its own sequences. This is arithmetic on shapes: it does not place devices in the mesh.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from models.config import ModelConfig
from models.decoder.layout import DecoderLayout
from models.sharding import allowed_tensor_sizes, check_tensor_size, make_mesh
from models.weights.loading import abstract_decoder
from server.config.engine_config import EngineConfig
from server.engine.programs.blueprint.blueprint import choose_layout, choose_sizes, measure
from server.engine.programs.blueprint.chip_memory import kind_bytes
from server.engine.programs.blueprint.kv_blocks import typical_context
from server.engine.programs.device_state import StateSizes


def choose_mesh(
    config: ModelConfig, engine: EngineConfig, devices: Sequence[jax.Device], chip_bytes: int | None
) -> Mesh:
    """The mesh of a server on `devices` with `chip_bytes` of memory each. Raises MeshError."""
    platform = devices[0].platform
    num_ranks, size = choose_split(config, engine, platform, len(devices), chip_bytes)
    return make_mesh(config, size, devices, data_size=num_ranks)


def choose_split(
    config: ModelConfig,
    engine: EngineConfig,
    platform: str,
    num_devices: int,
    chip_bytes: int | None,
) -> tuple[int, int]:
    """The number of data ranks, and the devices of each rank.

    `chip_bytes` is None where memory is no limit. If nothing fits, the result is the split with the
    most devices per rank. Raises MeshError where the settings do not suit the model.
    """
    size, num_ranks = engine.tensor_parallel_size, engine.data_parallel_size or int(engine.exact)
    if size:
        check_tensor_size(config, size, num_devices)
    elif num_ranks:
        size = max(allowed_tensor_sizes(config, max(1, num_devices // num_ranks)))
    else:
        sizes = allowed_tensor_sizes(config, num_devices)
        fitting = (one for one in sizes if _fits(config, engine, platform, one, chip_bytes))
        size = next(fitting, sizes[-1])
    return num_ranks or num_devices // size, size


def _fits(
    config: ModelConfig, engine: EngineConfig, platform: str, size: int, chip_bytes: int | None
) -> bool:
    """Whether `size` devices have room for the KV that the settings ask for.

    Without such a setting, they must have room for `max_num_seqs` sequences of the context that
    memory is divided for, and for one sequence of the greatest length.
    """
    if chip_bytes is None or platform == "cpu":
        return True
    try:
        layout = choose_layout(config, engine, platform, size)
        memory = measure(abstract_decoder(config, layout), layout, engine, chip_bytes)
        sizes = choose_sizes(config, engine, platform, layout, memory, 1)
    except ValueError:
        return False  # Drawing the blueprint of the chosen split reports what is wrong.
    if engine.num_blocks or engine.kv_cache_bytes:
        return _kv_bytes(config, layout, sizes) <= memory.for_kv
    longest = sizes.slot.max_model_len
    enough = sizes.sequences_at(typical_context(engine, longest)) >= engine.max_num_seqs
    return enough and sizes.sequences_at(longest) >= 1


def _kv_bytes(config: ModelConfig, layout: DecoderLayout, sizes: StateSizes) -> int:
    """The bytes that the KV pools take on one device."""
    of_kind = kind_bytes(config, layout, sizes.block_size)
    return sum(kind.num_blocks * of_kind[kind.window] for kind in sizes.kinds)
