"""Makes a plan: does a model fit a slice, how much KV is left, how long will its steps take.

Arithmetic on shapes first, which is enough to refuse; then the server's programs are compiled.
Their memory is the compiler's word, and their cycles give the prediction.
"""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from typing import Any

import jax

from models.sharding import data_size, tensor_size
from server.engine.programs.blueprint import Blueprint
from server.engine.programs.sizing import SizeError, tree_bytes, weight_bytes
from server.engine.programs.step_program import ProgramName
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
    question: PlanRequest,
    *,
    names: list[ProgramName] | None = None,
    jobs: int = 1,
    keep: Keep | None = None,
    progress: Progress = lambda name, done, total: None,
) -> Report:
    """The whole plan; `names` are the programs to compile, by default all of the server's.

    Raises MeshError or BackendError for what no slice of this kind could serve.
    """
    try:
        blueprint = blueprint_for(question)
    except SizeError as error:
        return _refusal(question, str(error))
    names = program_names(blueprint) if names is None else names
    try:
        programs = compile_programs(blueprint, names, jobs=jobs, keep=keep, progress=progress)
    except OutOfMemoryError as error:
        return _too_large(question, blueprint, error)
    return _report(question, blueprint, programs)


def largest_steps(question: PlanRequest) -> list[ProgramName]:
    """The largest decode and the largest prefill of the server's ladder."""
    buckets = blueprint_for(question).ladder.buckets
    return [max(one for one in buckets if one.decode_only is kind) for kind in (True, False)]


def _report(question: PlanRequest, blueprint: Blueprint, programs: list[ProgramReport]) -> Report:
    context, chip = question.context, question.slice.chip
    held, of_two = blueprint.sizes.sequences_at(context), sequences_of_two(question, blueprint)
    batch = min(held, question.engine.max_num_seqs)
    return Report(
        **_asked(question, tensor_size(blueprint.mesh)),
        fits=True,
        two_versions_fit=of_two >= question.engine.max_num_seqs,
        hbm_bytes_per_chip=_hbm(question, blueprint, programs),
        kv_tokens=kv_tokens(blueprint.sizes),
        concurrent_sequences=held,
        concurrent_sequences_of_two=of_two,
        decode=predict_decode(blueprint, chip, programs, batch, context),
        prefill=predict_prefill(blueprint, chip, programs, context),
        programs=programs,
        leaves_out=leaves_out(chip, programs, batch),
        serve_flags=serve_flags(question, blueprint),
    )


def _too_large(question: PlanRequest, blueprint: Blueprint, error: OutOfMemoryError) -> Report:
    """The arithmetic had room, the compiler has not."""
    excess = (error.used - error.limit) / GIB
    return Report(
        **_asked(question, tensor_size(blueprint.mesh)),
        hbm_bytes_per_chip=_hbm(question, blueprint, []),
        reason=f"{error.program} takes {error.used / GIB:.2f} GiB of {error.space}, "
        f"{excess:.2f} GiB more than there is",
        nearest_change=less_of(question, error),
    )


def _refusal(question: PlanRequest, reason: str) -> Report:
    """There is no room, by arithmetic: what one sequence would take."""
    need = need_of(question)
    memory = need.memory
    total = memory.weights + memory.sampler + memory.temporaries + need.kv
    return Report(
        **_asked(question, need.tensor_size),
        hbm_bytes_per_chip=HbmBytes(
            weights=memory.weights,
            kv=need.kv,
            sampler=memory.sampler,
            temp=memory.temporaries,
            total=total,
            limit=question.slice.chip.hbm_bytes,
        ),
        reason=reason,
        nearest_change=nearest_change(question),
    )


def _asked(question: PlanRequest, tensor: int) -> dict[str, Any]:
    engine, where = question.engine, question.slice
    return {
        "model": question.model,
        "slice": where.name,
        "devices": where.devices,
        "devices_per_chip": where.chip.devices_per_chip,
        "hosts": where.hosts,
        "mesh": MeshSize(data=engine.data_parallel_size or where.devices // tensor, tensor=tensor),
        "weight_dtype": engine.weight_dtype,
        "kv_dtype": engine.kv_dtype,
        "max_num_seqs": engine.max_num_seqs,
        "context": question.context,
        "software": _software(),
    }


def _hbm(question: PlanRequest, blueprint: Blueprint, programs: list[ProgramReport]) -> HbmBytes:
    """From the compiler where there is a program, else from the shapes."""
    memory, state = blueprint.memory, blueprint.programs()
    kv = tree_bytes(state.abstract_state().kv, state.state_specs().kv, blueprint.mesh)
    weights = weight_bytes(blueprint.model, blueprint.mesh)
    sampler = memory.sampler if memory else 0
    temp = max((program.temp_bytes for program in programs), default=0)
    total = max((program.total_bytes for program in programs), default=weights + kv + sampler)
    limit = question.slice.chip.hbm_bytes
    return HbmBytes(weights=weights, kv=kv, sampler=sampler, temp=temp, total=total, limit=limit)


def serve_flags(question: PlanRequest, blueprint: Blueprint) -> list[str]:
    """The flags with which a server compiles these programs and no others."""
    engine, sizes = question.engine, blueprint.sizes
    settings: dict[str, object] = {
        "model": question.model,
        "tensor_parallel_size": blueprint.layout.tensor_size,
        "data_parallel_size": data_size(blueprint.mesh),
        "max_num_seqs": sizes.max_num_seqs,
        "max_model_len": sizes.slot.max_model_len,
        "max_num_batched_tokens": blueprint.ladder.max_num_batched_tokens,
        "block_size": sizes.block_size,
        "kv_context": question.context,
    }
    if engine.num_blocks:
        settings["num_blocks"] = engine.num_blocks
    elif blueprint.memory is not None:
        # Not what the chip has left by its own count, which may differ by a block.
        settings["kv_cache_bytes"] = blueprint.memory.for_kv * blueprint.layout.tensor_size
    settings |= {
        key: value
        for key in ("dtype", "kv_dtype", "weight_dtype", "attention_backend")
        if (value := getattr(engine, key)) != "auto"
    }
    pairs = [("--" + key.replace("_", "-"), str(value)) for key, value in settings.items()]
    return [word for pair in pairs for word in pair]


def _software() -> Software:
    has_libtpu = find_spec("libtpu") is not None
    return Software(
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        libtpu=importlib.metadata.version("libtpu") if has_libtpu else "",
    )
