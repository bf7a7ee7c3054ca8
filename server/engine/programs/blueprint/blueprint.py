"""Derives a blueprint, which determines all programs, from a model's shape, settings and devices.

The server draws a blueprint for its own devices; `plan` draws one for the devices of a slice that
is not here. Both compile what the blueprint says, so both compile the same. This module reads no
weights and allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from models.attention.choice import choose_backend
from models.config import ModelConfig
from models.cpu_kernels import library
from models.decoder.decoder import Decoder
from models.decoder.layout import AdapterSizes, DecoderLayout
from models.sharding import DATA, TENSOR, data_size, tensor_size
from models.weights.loading import abstract_decoder
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.programs.blueprint.chip_memory import (
    ChipMemory,
    SizeError,
    adapter_bytes,
    check_table,
    state_bytes,
    tree_bytes,
    weight_bytes,
)
from server.engine.programs.blueprint.image_sizes import (
    check_images,
    explained,
    image_sizes,
    step_of_image,
)
from server.engine.programs.blueprint.incompatible_settings import check_compatible
from server.engine.programs.blueprint.kv_blocks import bytes_for_kv, host_blocks, kinds_of_layers
from server.engine.programs.blueprint.matrix_dtype import matrix_dtype
from server.engine.programs.blueprint.platform_defaults import (
    ACCELERATOR,
    PlatformDefaults,
    platform_defaults,
)
from server.engine.programs.compiler_options import CompilerOptions, choose_compiler_options
from server.engine.programs.device_state import StateSizes
from server.engine.programs.image_programs import row_bytes
from server.engine.programs.inputs.buckets import Ladder, exact_ladder
from server.engine.programs.inputs.slot_input import SlotSizes
from server.engine.programs.inputs.step_input import WORD
from server.engine.programs.programs import Programs
from server.engine.programs.sampling.sampler import abstract_state, state_specs
from server.link.sampling import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS

# The block sizes that the TPU's attention kernels were compiled with.
_TPU_BLOCK_SIZES = (16, 32, 64, 128, 256)

_KV_DTYPES = {
    name: jnp.dtype(dtype)
    for name, dtype in (
        ("float32", jnp.float32),
        ("bfloat16", jnp.bfloat16),
        ("int8", jnp.int8),
        ("fp8", jnp.float8_e4m3fn),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model on a mesh, with its sizes. `memory` is None on CPU, where it is no limit."""

    config: ModelConfig
    layout: DecoderLayout
    mesh: Mesh
    model: Decoder
    sizes: StateSizes
    ladder: Ladder
    memory: ChipMemory | None
    compiler_options: CompilerOptions

    def programs(self) -> Programs:
        """The programs that the server compiles."""
        return Programs(self.model, self.layout, self.mesh, self.sizes)


def make_blueprint(
    config: ModelConfig, engine: EngineConfig, mesh: Mesh, chip_bytes: int | None
) -> Blueprint:
    """The blueprint of a server whose chips have `chip_bytes` of memory each.

    Raises BackendError or ConfigError; raises SizeError where the sizes exceed a chip's memory.
    """
    platform = mesh.devices.flat[0].platform
    check_compatible(config, engine, mesh)
    layout = choose_layout(config, engine, platform, tensor_size(mesh))
    check_images(config, engine, _ladder(config, engine, platform_defaults(platform)))
    model = abstract_decoder(config, layout)
    memory = None
    if chip_bytes is not None and platform != "cpu":
        memory = measure(model, layout, engine, chip_bytes)
    try:
        sizes = choose_sizes(config, engine, platform, layout, memory, data_size(mesh))
    except SizeError as error:
        raise explained(error, config) from error
    return Blueprint(
        config=config,
        layout=layout,
        mesh=mesh,
        model=model,
        sizes=sizes,
        ladder=_ladder(config, engine, platform_defaults(platform)),
        memory=memory,
        compiler_options=choose_compiler_options(
            config, engine.compiler_options, mesh.devices.flat[0]
        ),
    )


def choose_sizes(
    config: ModelConfig,
    engine: EngineConfig,
    platform: str,
    layout: DecoderLayout,
    memory: ChipMemory | None,
    num_ranks: int,
) -> StateSizes:
    """The sizes of each data rank's state. Raises ConfigError or SizeError."""
    defaults = platform_defaults(platform)
    slot = _slot_sizes(config, engine)
    block_size = engine.block_size or defaults.block_size
    if platform == "tpu":
        _check_tpu(engine, slot, block_size)
    kv_bytes = bytes_for_kv(engine, layout, memory, num_ranks)
    ladder = _ladder(config, engine, defaults)
    budget = ladder.max_num_batched_tokens
    kinds = kinds_of_layers(config, engine, layout, kv_bytes, slot, block_size, budget)
    return StateSizes(
        num_ranks=num_ranks,
        kinds=kinds,
        num_host_blocks=host_blocks(config, engine, layout, kinds, block_size),
        block_size=block_size,
        max_num_seqs=engine.max_num_seqs,
        slot=slot,
        num_words=-(-layout.vocab_rows(config) // WORD),
        draw_rows=min(defaults.draw_rows, ladder.widest),
        has_adapters=layout.adapters is not None,
        num_states=num_states(config, engine),
        images=image_sizes(config, ladder),
    )


def choose_layout(
    config: ModelConfig, engine: EngineConfig, platform: str, tensor_size: int
) -> DecoderLayout:
    """The layout of the model on `tensor_size` devices. Raises BackendError."""
    on_cpu = platform == "cpu"
    dtype = matrix_dtype(config, engine, platform)
    # A CPU computes in float32 in any case, so a smaller type would only lose precision.
    wide = jnp.dtype(jnp.float32) if on_cpu else dtype
    return DecoderLayout(
        tensor_size=tensor_size,
        stacked=not on_cpu,
        dtype=dtype,
        activation_dtype=wide,
        kv_dtype=wide if engine.kv_dtype == "auto" else _KV_DTYPES[engine.kv_dtype],
        backend=choose_backend(engine.attention_backend, platform, config, tensor_size),
        quantized=keeps_int8(config, engine),
        adapters=AdapterSizes(engine.max_loras, engine.max_lora_rank) if engine.max_loras else None,
        cpu_kernels=on_cpu and engine.cpu_kernels == "auto" and library.are_available(),
    )


def num_states(config: ModelConfig, engine: EngineConfig) -> int:
    """The recurrent states of a data rank: of each sequence, of as many prefixes, and one more.

    With `exact`, prefixes would have to end where chunks end, and none is kept.
    """
    if config.recurrence is None:
        return 0
    keeps_prefixes = engine.prefix_caching and not engine.exact
    return engine.max_num_seqs * (1 + keeps_prefixes) + 1


def keeps_int8(config: ModelConfig, engine: EngineConfig) -> bool:
    """Whether matrices stay int8. A checkpoint that is quantized is not made larger unasked."""
    if engine.weight_dtype == "auto":
        return config.stored_bits is not None
    return engine.weight_dtype == "int8"


def measure(
    model: Decoder, layout: DecoderLayout, engine: EngineConfig, chip_bytes: int
) -> ChipMemory:
    """The memory of a chip that is used before any KV; the same on every data rank."""
    mesh = AbstractMesh((1, layout.tensor_size), (DATA, TENSOR))
    slot = _slot_sizes(model.config, engine)
    sampler = abstract_state(engine.max_num_seqs, layout.vocab_rows(model.config), slot)
    num_sets = 2 if engine.swap_policy == "availability" else 1
    return ChipMemory(
        usable=int(chip_bytes * engine.hbm_utilization),
        weights=num_sets * weight_bytes(model, mesh),
        sampler=tree_bytes(sampler, state_specs(), mesh),
        adapters=adapter_bytes(model.config, layout, mesh),
        images=_image_bytes(model.config, engine, layout),
        states=state_bytes(model.config, layout, num_states(model.config, engine)),
    )


def _image_bytes(config: ModelConfig, engine: EngineConfig, layout: DecoderLayout) -> int:
    images = image_sizes(config, _ladder(config, engine, ACCELERATOR))
    return 0 if images is None else row_bytes(config.hidden_size, layout, images)


def _slot_sizes(config: ModelConfig, engine: EngineConfig) -> SlotSizes:
    return SlotSizes(
        _longest(config, engine), MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS + len(config.eos_token_ids)
    )


def _longest(config: ModelConfig, engine: EngineConfig) -> int:
    """The most tokens of a sequence; where tokens see later ones, a step must hold them all."""
    longest = engine.max_model_len or config.max_position
    if config.bidirectional and engine.max_num_batched_tokens:
        return min(longest, engine.max_num_batched_tokens)
    return longest


def _ladder(config: ModelConfig, engine: EngineConfig, defaults: PlatformDefaults) -> Ladder:
    least = max(defaults.token_budget, 2 * engine.max_num_seqs)
    if config.bidirectional:
        least = max(least, _longest(config, engine))
    if config.vision is not None:
        least = max(least, step_of_image(config.vision, engine))
    budget = engine.max_num_batched_tokens or least
    if engine.exact:
        return exact_ladder(engine.max_num_seqs, budget)
    return Ladder(
        engine.max_num_seqs,
        budget,
        defaults.smallest_mixed,
        smallest_decode=defaults.smallest_decode,
        growth=defaults.growth,
        num_drafts=engine.most_drafts,
        most_verified=defaults.most_verified,
    )


def _check_tpu(engine: EngineConfig, slot: SlotSizes, block_size: int) -> None:
    if block_size not in _TPU_BLOCK_SIZES:
        allowed = ", ".join(map(str, _TPU_BLOCK_SIZES))
        raise ConfigError(f"block_size is {block_size}; on TPU it must be one of {allowed}")
    check_table(engine.max_num_seqs, slot.max_model_len, block_size)
