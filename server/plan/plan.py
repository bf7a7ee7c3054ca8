"""Makes a plan: whether a model fits a slice, how much KV is left, and how long its steps take.

Arithmetic on shapes comes first: it is enough to refuse a model. If the model fits by arithmetic,
the server's programs are compiled. The compiler reports their memory, and their cycles give the
predicted times.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import jax

from models.sharding import data_size, tensor_size
from server.config.engine_config import EngineConfig
from server.engine.programs.blueprint.blueprint import Blueprint, keeps_int8
from server.engine.programs.blueprint.chip_memory import (
    SizeError,
    tower_bytes,
    tree_bytes,
    weight_bytes,
)
from server.engine.programs.blueprint.matrix_dtype import dtype_note
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.programs import ProgramName
from server.plan.compilation import (
    Keep,
    OutOfMemoryError,
    Progress,
    compile_programs,
    program_names,
)
from server.plan.prediction import leaves_out, predict_decode, predict_prefill
from server.plan.report import HbmBytes, MeshSize, ProgramReport, Report, Software
from server.plan.request import PlanRequest, blueprint_for, kv_tokens, need_of, sequences_of_two
from server.plan.slice_types import GIB
from server.plan.suggestion import less_of, nearest_change


def make_plan(
    request: PlanRequest,
    *,
    names: Sequence[ProgramName] | None = None,
    jobs: int = 1,
    keep: Keep | None = None,
    progress: Progress = lambda name, done, total: None,
) -> Report:
    """The whole plan. `names` are the programs to compile, by default all of the server's.

    Raises MeshError or BackendError where no slice of this generation could serve the model.
    """
    try:
        blueprint = blueprint_for(request)
    except SizeError as error:
        return _refusal(request, str(error))
    names = program_names(blueprint) if names is None else names
    try:
        programs = compile_programs(blueprint, names, jobs=jobs, keep=keep, progress=progress)
    except OutOfMemoryError as error:
        return _too_large(request, blueprint, error)
    return _report(request, blueprint, programs)


def largest_steps(request: PlanRequest) -> list[Bucket]:
    """The largest decode and the largest prefill of the server's ladder."""
    buckets = [each for each in blueprint_for(request).ladder.buckets if not each.num_drafts]
    return [max(one for one in buckets if one.decode_only is kind) for kind in (True, False)]


def _report(request: PlanRequest, blueprint: Blueprint, programs: list[ProgramReport]) -> Report:
    context, chip = request.context, request.slice.chip
    held, of_two = blueprint.sizes.sequences_at(context), sequences_of_two(request, blueprint)
    batch = min(held, request.engine.max_num_seqs)
    return Report(
        **_asked(request, tensor_size(blueprint.mesh)),
        fits=True,
        two_versions_fit=of_two >= request.engine.max_num_seqs,
        hbm_bytes_per_chip=_hbm(request, blueprint, programs),
        kv_tokens=kv_tokens(blueprint.sizes),
        concurrent_sequences=held,
        concurrent_sequences_of_two=of_two,
        decode=predict_decode(blueprint, chip, programs, batch, context),
        prefill=predict_prefill(blueprint, chip, programs, context),
        programs=programs,
        leaves_out=leaves_out(blueprint, chip, programs, batch),
        serve_flags=serve_flags(request, blueprint),
    )


def _too_large(request: PlanRequest, blueprint: Blueprint, error: OutOfMemoryError) -> Report:
    """The report where the model fits by arithmetic, but the compiler ran out of memory."""
    excess = (error.used - error.limit) / GIB
    return Report(
        **_asked(request, tensor_size(blueprint.mesh)),
        hbm_bytes_per_chip=_hbm(request, blueprint, []),
        reason=f"{error.program} takes {error.used / GIB:.2f} GiB of {error.space}, "
        f"{excess:.2f} GiB more than the chip has",
        nearest_change=less_of(request, error),
    )


def _refusal(request: PlanRequest, reason: str) -> Report:
    """The report where the model does not fit by arithmetic: what one sequence would need."""
    need = need_of(request)
    memory = need.memory
    weights = memory.weights + memory.adapters
    total = weights + memory.sampler + memory.states + memory.temporaries + need.kv
    return Report(
        **_asked(request, need.tensor_size),
        hbm_bytes_per_chip=HbmBytes(
            weights=weights,
            kv=need.kv,
            sampler=memory.sampler,
            states=memory.states,
            temp=memory.temporaries,
            total=total,
            limit=request.slice.chip.hbm_bytes,
        ),
        reason=reason,
        nearest_change=nearest_change(request),
    )


def _asked(request: PlanRequest, tensor: int) -> dict[str, Any]:
    engine, where = request.engine, request.slice
    return {
        "model": request.model,
        "slice": where.name,
        "devices": where.devices,
        "devices_per_chip": where.chip.devices_per_chip,
        "hosts": where.hosts,
        "mesh": MeshSize(data=engine.data_parallel_size or where.devices // tensor, tensor=tensor),
        "weight_dtype": "int8" if keeps_int8(request.config, engine) else engine.weight_dtype,
        "kv_dtype": engine.kv_dtype,
        "max_num_seqs": engine.max_num_seqs,
        "context": request.context,
        "notes": [note] if (note := dtype_note(request.config, engine, "tpu")) else [],
        "software": _software(),
    }


def _hbm(request: PlanRequest, blueprint: Blueprint, programs: list[ProgramReport]) -> HbmBytes:
    """One chip's memory: from the compiler where a program was compiled, else from the shapes."""
    memory, state = blueprint.memory, blueprint.programs()
    shapes, specs = state.abstract_state(), state.state_specs()
    kv = tree_bytes(shapes.kv, specs.kv, blueprint.mesh)
    states = tree_bytes(shapes.recurrent, specs.recurrent, blueprint.mesh)
    beside = memory.adapters + memory.images if memory else 0
    weights = weight_bytes(blueprint.model, blueprint.mesh) + beside
    sampler = memory.sampler if memory else 0
    temp = max((program.temp_bytes for program in programs), default=0)
    resident = weights + kv + states + sampler
    total = max((program.total_bytes for program in programs), default=resident)
    if programs:  # No step takes the tower's weights.
        total += tower_bytes(blueprint.model, blueprint.mesh)
    limit = request.slice.chip.hbm_bytes
    return HbmBytes(
        weights=weights,
        kv=kv,
        states=states,
        sampler=sampler,
        temp=temp,
        total=total,
        limit=limit,
    )


def serve_flags(request: PlanRequest, blueprint: Blueprint) -> list[str]:
    """The flags with which a server compiles these programs and no others."""
    engine, sizes = request.engine, blueprint.sizes
    settings: dict[str, object] = {
        "model": request.model,
        "tensor_parallel_size": blueprint.layout.tensor_size,
        "data_parallel_size": data_size(blueprint.mesh),
        "max_num_seqs": sizes.max_num_seqs,
        "max_model_len": sizes.slot.max_model_len,
        "max_num_batched_tokens": blueprint.ladder.max_num_batched_tokens,
        "block_size": sizes.block_size,
        "kv_context": request.context,
    }
    if engine.max_loras:
        settings |= {"max_loras": engine.max_loras, "max_lora_rank": engine.max_lora_rank}
    if engine.max_images_per_prompt != EngineConfig().max_images_per_prompt:
        settings["max_images_per_prompt"] = engine.max_images_per_prompt
    if engine.num_blocks:
        settings["num_blocks"] = engine.num_blocks
    elif blueprint.memory is not None:
        # Given in bytes: a server that counts what its chip has left may differ by a block.
        settings["kv_cache_bytes"] = blueprint.memory.for_kv * blueprint.layout.tensor_size
    settings |= {
        key: value
        for key in ("dtype", "kv_dtype", "weight_dtype", "attention_backend")
        if (value := getattr(engine, key)) != "auto"
    }
    if engine.compiler_options:
        settings["compiler_options"] = engine.compiler_options
    pairs = [("--" + key.replace("_", "-"), str(value)) for key, value in settings.items()]
    return [word for pair in pairs for word in pair]


def _software() -> Software:
    has_libtpu = find_spec("libtpu") is not None
    return Software(
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        libtpu=importlib.metadata.version("libtpu") if has_libtpu else "",
    )
