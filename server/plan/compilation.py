"""Compiles the programs of a blueprint and reports what each needs.

They are the programs that the server itself lowers. The devices may be those of a slice that is not
here: programs can be compiled for such devices, but not run on them.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from server.engine.programs.baked import BakedFolder, ProgramKey, program_key, spell
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.compiler_options import kind_of_step
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.programs import PickSize, ProgramName, Programs
from server.plan.cost import Cost, aliased_bytes, cost_of
from server.plan.hlo import Shape, parse_module
from server.plan.report import ProgramReport
from server.plan.result_store import ResultStore

_EXHAUSTED = "RESOURCE_EXHAUSTED"
_USED = re.compile(r"memory space (\w+)\. Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?)")
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+[KMGT]?)\) exceeds available HBM \(([^)]+)\)")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_HLO_TYPES = {
    jnp.dtype(dtype): name
    for dtype, name in (
        (jnp.bfloat16, "bf16"),
        (jnp.float32, "f32"),
        (jnp.int8, "s8"),
        (jnp.float8_e4m3fn, "f8e4m3fn"),
    )
}

# Called with the name of the program that is ready, the number ready, and the number in all.
type Progress = Callable[[str, int, int], None]


class OutOfMemoryError(Exception):
    """The compiler's verdict that a program does not fit: `used` bytes of `limit` in `space`."""

    def __init__(self, program: str, space: str, used: int, limit: int) -> None:
        super().__init__(f"{program} needs {used} bytes of {limit} in {space}")
        self.program, self.space, self.used, self.limit = program, space, used, limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Where compiled programs are kept. With only `results` set, known programs are not recompiled.

    `hlo_dir` and `baked` need the compiled program itself, so they always compile.
    """

    hlo_dir: Path | None = None
    baked: BakedFolder | None = None
    results: ResultStore | None = None

    def find(self, key: ProgramKey) -> ProgramReport | None:
        """The stored report of this program, or None where the program must be compiled."""
        if self.results is None or self.hlo_dir is not None or self.baked is not None:
            return None
        return self.results.find(key)


def program_names(blueprint: Blueprint) -> list[ProgramName]:
    """Every program of a server, its largest steps first."""
    ladder = blueprint.ladder
    picks = map(PickSize, reversed(ladder.draw_counts))
    adapters: list[ProgramName] = ["set_adapter", "make_adapters"]
    blocks: list[ProgramName] = ["save_blocks", "restore_blocks"]
    images: list[ProgramName] = ["encode_image", "make_images"]
    return [
        *sorted(ladder.buckets, reverse=True),
        "draw",
        *picks,
        "set_slot",
        "make_state",
        *(adapters if blueprint.layout.adapters else []),
        *(blocks if blueprint.sizes.num_host_blocks else []),
        *(images if blueprint.sizes.images else []),
    ]


def compile_programs(
    blueprint: Blueprint,
    names: Sequence[ProgramName],
    *,
    jobs: int = 1,
    keep: Keep | None = None,
    progress: Progress = lambda name, done, total: None,
) -> list[ProgramReport]:
    """Compile these programs, `jobs` at once. Raises OutOfMemoryError for the first that fails."""
    programs, reports, keep = blueprint.programs(), [], keep or Keep()
    with (
        ThreadPoolExecutor(jobs) as pool,
        _without_cache() if keep.baked is not None else contextlib.nullcontext(),
    ):
        running = [pool.submit(_compile, blueprint, programs, name, keep) for name in names]
        try:
            for done, (name, future) in enumerate(zip(names, running, strict=True), start=1):
                reports.append(future.result())
                progress(spell(name), done, len(names))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return reports


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compile without JAX's compilation cache.

    On CPU, jax 0.12.0.1 writes an executable from its cache without its functions: a program baked
    from such an executable loads, and fails when it is called.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()


def _compile(
    blueprint: Blueprint, programs: Programs, name: ProgramName, keep: Keep
) -> ProgramReport:
    lowered = lower(blueprint, programs, name)
    options = blueprint.compiler_options.of(name)
    key = program_key(lowered, blueprint.mesh, options)
    if (kept := keep.find(key)) is not None:
        return kept
    started = time.monotonic()
    compiled = _compile_lowered(lowered, spell(name), options)
    seconds = time.monotonic() - started
    text = compiled.as_text() or ""
    report = _report(name, compiled, text, pool_shapes(programs, blueprint), seconds, key.program)
    if keep.results is not None:
        keep.results.keep(key, report)
    if keep.baked is not None:
        keep.baked.add(spell(name), key, compiled, seconds)
    if keep.hlo_dir is not None:
        keep.hlo_dir.mkdir(parents=True, exist_ok=True)
        (keep.hlo_dir / f"{spell(name)}.hlo").write_text(text)
    return report


def lower(blueprint: Blueprint, programs: Programs, name: ProgramName) -> jax.stages.Lowered:
    """The program as the server lowers it, also for devices that are not here."""
    with _absent(blueprint.mesh.devices.flat[0]):
        return programs.lower(name)


def _compile_lowered(
    lowered: jax.stages.Lowered, spelled: str, options: dict[str, int]
) -> jax.stages.Compiled:
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED in str(error):
            raise out_of_memory(spelled, str(error)) from error
        raise


@contextlib.contextmanager
def _absent(device: jax.Device) -> Iterator[None]:
    """Let kernels be lowered for a TPU that is not here; else they look for its hardware."""
    if device.platform != "tpu":
        yield
        return
    import tokamax

    with tokamax.config.cross_compile(True):
        yield


def pool_shapes(programs: Programs, blueprint: Blueprint) -> list[Shape]:
    """One chip's part of each array of the KV pools, and of the pools of states."""
    shapes = []
    state, split = programs.abstract_state(), programs.state_specs()
    pools, specs = (jax.tree.leaves((each.kv, each.recurrent)) for each in (state, split))
    for leaf, spec in zip(pools, specs, strict=True):
        sharding = jax.NamedSharding(blueprint.mesh, spec)
        shapes.append(Shape(_HLO_TYPES[leaf.dtype], sharding.shard_shape(leaf.shape), False))
    return shapes


def _report(
    name: ProgramName,
    compiled: jax.stages.Compiled,
    text: str,
    pools: list[Shape],
    seconds: float,
    program_hash: str,
) -> ProgramReport:
    memory: Any = compiled.memory_analysis()
    module = parse_module(text)
    cost: Cost = cost_of(module)
    arguments, results = memory.argument_size_in_bytes, memory.output_size_in_bytes
    held = arguments + results - memory.alias_size_in_bytes
    return ProgramReport(
        kind=kind_of_step(name),
        bucket=spell(name),
        tokens=name.num_tokens if isinstance(name, Bucket) else 0,
        rows=name.num_rows if isinstance(name, Bucket) else 0,
        compile_s=round(seconds, 2),
        temp_bytes=memory.temp_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        pool_alias_bytes=aliased_bytes(module, pools),
        total_bytes=held + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        cycles=cost.cycles,
        conditional_cycles=cost.conditional_cycles,
        pallas_calls=cost.pallas_calls,
        collectives=cost.collectives,
        collective_bytes=cost.collective_bytes,
        prefetch_bytes=cost.prefetch_bytes,
        unknown_loops=cost.unknown_loops,
        program_hash=program_hash,
    )


def out_of_memory(spelled: str, message: str) -> OutOfMemoryError:
    if (found := _USED.search(message)) is not None:
        return OutOfMemoryError(spelled, found[1], _bytes(found[2]), _bytes(found[3]))
    if (found := _TEMPORARIES.search(message)) is not None:
        return OutOfMemoryError(spelled, "hbm", _bytes(found[1]), _bytes(found[2]))
    return OutOfMemoryError(spelled, "hbm", 0, 0)


def _bytes(text: str) -> int:
    unit = _UNITS.get(text[-1], 1)
    return int(float(text.rstrip("KMGT")) * unit)
