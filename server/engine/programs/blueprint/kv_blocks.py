"""How many KV blocks there are: on the device for each kind of layers, and in host memory.

Either a setting says the number or the bytes; or what the weights and the rest leave of a chip is
divided among the kinds. Knows no programs.
"""

from __future__ import annotations

import math

from models.config import ModelConfig
from models.decoder.layout import DecoderLayout
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.policy.blocks.layer_kinds import KVKind, split_blocks
from server.engine.programs.blueprint.chip_memory import (
    ChipMemory,
    SizeError,
    block_bytes,
    kind_bytes,
)
from server.engine.programs.inputs.slot_input import SlotSizes

# Padding writes to block 0; a sequence needs at least one block more to begin.
_LEAST_BLOCKS = 2
# The KV pool's size on CPU. The device leaves no fixed rest there: host memory is shared.
_CPU_KV_BYTES = 1 << 30
# The context that memory is divided for where layers keep different windows.
_TYPICAL_CONTEXT = 8192


def host_blocks(
    config: ModelConfig,
    engine: EngineConfig,
    layout: DecoderLayout,
    kinds: tuple[KVKind, ...],
    block_size: int,
) -> tuple[int, ...]:
    """The blocks of each kind that are kept in host memory, in proportion to the device's.

    () is none. Raises ConfigError where the bytes hold no block of a kind.
    """
    if not engine.prefix_host_bytes:
        return ()
    of_kind = kind_bytes(config, layout, block_size)
    on_chip = sum(kind.num_blocks * of_kind[kind.window] for kind in kinds)
    on_device = on_chip * layout.tensor_size
    found = tuple(kind.num_blocks * engine.prefix_host_bytes // on_device for kind in kinds)
    if not min(found):
        raise ConfigError(
            f"prefix_host_bytes is {engine.prefix_host_bytes}, too little for a block of each kind"
            f" of layers next to {on_device} bytes of KV on the device: raise it, or set it to 0"
        )
    return found


def typical_context(engine: EngineConfig, max_model_len: int) -> int:
    """The tokens of the sequence that memory is divided for."""
    return min(engine.kv_context or _TYPICAL_CONTEXT, max_model_len)


def kinds_of_layers(
    config: ModelConfig,
    engine: EngineConfig,
    layout: DecoderLayout,
    kv_bytes: int,
    slot: SlotSizes,
    block_size: int,
    max_num_batched_tokens: int,
) -> tuple[KVKind, ...]:
    """The blocks of each kind of layers: the number in the settings, or what the bytes hold."""
    if engine.num_blocks:
        return tuple(KVKind(window, engine.num_blocks) for window in config.windows)
    of_kind = kind_bytes(config, layout, block_size)
    part = math.gcd(*block_bytes(config, layout, block_size).values())
    parts = [(window, of_kind[window] // part) for window in config.windows]
    longest = slot.max_model_len
    return split_blocks(
        count_blocks(kv_bytes, part, sum(count for _, count in parts)),
        parts,
        block_size=block_size,
        context=typical_context(engine, longest),
        max_model_len=longest,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )


def bytes_for_kv(
    engine: EngineConfig, layout: DecoderLayout, memory: ChipMemory | None, num_ranks: int
) -> int:
    """One chip's bytes for KV."""
    if engine.kv_cache_bytes:
        return engine.kv_cache_bytes // layout.tensor_size
    return _CPU_KV_BYTES // (num_ranks * layout.tensor_size) if memory is None else memory.for_kv


def count_blocks(kv_bytes: int, bytes_of_block: int, num_layers: int) -> int:
    """The number of single-layer blocks in `kv_bytes`, over all layers.

    Where layers differ, `bytes_of_block` is a common part of their blocks' bytes, and a layer
    counts as many times as its block has such parts. Raises SizeError where the blocks are too few
    to serve a sequence.
    """
    num_blocks = kv_bytes // bytes_of_block
    least = _LEAST_BLOCKS * num_layers
    if num_blocks < least:
        missing = least * bytes_of_block - kv_bytes
        raise SizeError(
            f"weights and working memory leave no room for KV: {missing / 2**30:.2f} GiB per chip "
            "are missing; use more chips (tensor_parallel_size), weight_dtype int8 or kv_dtype fp8"
        )
    return num_blocks
