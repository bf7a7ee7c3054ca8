"""`make plan-ci`: plans every preset on its recommended slice and checks it against fixed limits
and golden numbers.

The gate finds a change that copies the KV pool or needs more working memory, cycles, kernels or
collectives before it reaches a TPU. Compiled programs are remembered by their hash, so an
interrupted run continues where it stopped, and a change recompiles only the programs it changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from server.config.engine_config import EngineConfig
from server.plan.progress import ProgressLines
from server.plan.report import TEMP_BYTES, Software
from server.plan.slice_types import check_packages, find_slice

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.presets import Preset
    from server.plan.report import ProgramReport, Report
    from server.plan.request import PlanRequest

GOLDEN = Path("benchmarks/plan_golden.json")
# What `.ci/run` compiles: the largest steps of one preset.
_SMALL = ("llama-3.1-8b",)

_PREFILL_TOKENS = 2048
_TOLERANCE = 0.05
_KERNELS_OF_STEP = 2


class GoldenProgram(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded numbers of one program."""

    cycles: int
    temp_bytes: int
    pallas_calls: int
    collectives: int
    collective_bytes: int


class Exempt(msgspec.Struct, frozen=True, kw_only=True):
    """A program that may exceed a limit: the limit that it must keep instead, and the reason."""

    temp_bytes: int
    reason: str


class GoldenPreset(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded plan of a preset and the software it was made with.

    `reason` says why the preset does not fit; it is empty where the preset fits.
    """

    software: Software
    fits: bool
    reason: str = ""
    programs: dict[str, GoldenProgram] = {}
    exempt: dict[str, Exempt] = {}


type Golden = dict[str, GoldenPreset]


def violations(report: Report, config: ModelConfig, golden: GoldenPreset | None) -> list[str]:
    """One sentence for each limit the report breaks and each golden number it drifts from."""
    return [f"{report.model}: {sentence}" for sentence in _violations(report, config, golden)]


def _violations(report: Report, config: ModelConfig, golden: GoldenPreset | None) -> Iterator[str]:
    if golden is None:
        yield "there are no golden numbers; record them with --update"
        golden = GoldenPreset(software=report.software, fits=report.fits)
    if report.fits != golden.fits:
        yield f"it {'fits' if report.fits else 'does not fit'} now: {report.reason}"
    for program in report.programs:
        exempt, recorded = golden.exempt.get(program.bucket), golden.programs.get(program.bucket)
        memory = report.hbm_bytes_per_chip
        sentences = [*_limits(program, config, memory.kv + memory.states, exempt)]
        sentences += _drift(program, recorded) if recorded else []
        if sentences and golden.software != report.software:
            sentences.append(f"recorded with {golden.software}, now {report.software}")
        yield from (f"{program.bucket}: {sentence}" for sentence in sentences)


def _limits(
    program: ProgramReport, config: ModelConfig, pool_bytes: int, exempt: Exempt | None
) -> Iterator[str]:
    if program.kind == "other":
        return
    if program.pool_alias_bytes != pool_bytes:
        yield f"{program.pool_alias_bytes:,} of the pools' {pool_bytes:,} bytes are aliased"
    limit = exempt.temp_bytes if exempt else _temp_limit(program)
    if limit and program.temp_bytes > limit:
        yield f"temporaries of {program.temp_bytes:,} bytes exceed {limit:,}"
    most = config.num_layers + _KERNELS_OF_STEP
    if program.kind == "decode" and config.moe is None and program.pallas_calls > most:
        yield (
            f"{program.pallas_calls} kernel launches exceed one per layer and {_KERNELS_OF_STEP}"
        )


def _temp_limit(program: ProgramReport) -> int:
    """The limit in bytes; 0 is no limit, for the prefills that are larger than the gate checks."""
    if program.kind == "decode":
        return TEMP_BYTES["decode"]
    return TEMP_BYTES["prefill"] if program.tokens <= _PREFILL_TOKENS else 0


def _drift(program: ProgramReport, golden: GoldenProgram) -> Iterator[str]:
    for name in ("cycles", "collective_bytes"):
        now, then = getattr(program, name), getattr(golden, name)
        if abs(now - then) > _TOLERANCE * then:
            yield f"{name} are {now:,}, were {then:,}; record an intended change with --update"
    for name in ("pallas_calls", "collectives"):
        now, then = getattr(program, name), getattr(golden, name)
        if now > then:
            yield f"{name} are {now}, were {then}"


def recorded(report: Report, before: GoldenPreset | None) -> GoldenPreset:
    """The golden numbers of a report, with the exemptions of `before`."""
    programs = {
        program.bucket: GoldenProgram(
            **{name: getattr(program, name) for name in GoldenProgram.__struct_fields__}
        )
        for program in report.programs
    }
    return GoldenPreset(
        software=report.software,
        fits=report.fits,
        reason=report.reason,
        programs=(before.programs if before else {}) | programs,
        exempt=before.exempt if before else {},
    )


def request_of(preset: Preset) -> PlanRequest:
    """The preset on its recommended slice."""
    from server.plan.request import PlanRequest

    asked = preset.recommended
    engine = EngineConfig(
        model=preset.name,
        max_num_seqs=asked.max_num_seqs,
        max_model_len=asked.context,
        kv_context=asked.context,
    )
    return PlanRequest(
        model=preset.name,
        config=preset.config,
        slice=find_slice(asked.slice),
        engine=engine,
        context=asked.context,
    )


def read_golden(path: Path) -> Golden:
    """The recorded presets; empty where nothing has been recorded."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, GoldenPreset])


def main(argv: list[str] | None = None) -> int:
    """Check the named presets, or all of them; exit code 0 if no limit is broken."""
    parser = argparse.ArgumentParser(prog="make plan-ci", description=__doc__)
    parser.add_argument("presets", nargs="*", metavar="PRESET")
    parser.add_argument("--small", action="store_true", help="only the largest steps of one preset")
    parser.add_argument("--update", action="store_true", help="record the numbers as golden")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args(argv)

    from models.presets import load_preset, preset_names

    names = arguments.presets or (_SMALL if arguments.small else preset_names())
    presets = [load_preset(name) for name in names]
    first = find_slice(presets[0].recommended.slice)
    check_packages(first)
    first.set_environment(os.environ)
    golden, broken = read_golden(GOLDEN), []
    for preset in presets:
        report = _make(preset, arguments)
        if arguments.update:
            golden[preset.name] = recorded(report, golden.get(preset.name))
            content = msgspec.json.encode(dict(sorted(golden.items())))
            GOLDEN.write_bytes(msgspec.json.format(content) + b"\n")
        broken += violations(report, preset.config, golden.get(preset.name))
    for sentence in broken:
        print(sentence, file=sys.stderr)
    print(f"plan-ci: {len(presets)} presets, {len(broken)} violations")
    return 1 if broken else 0


def _make(preset: Preset, arguments: argparse.Namespace) -> Report:
    from server.plan.compilation import Keep
    from server.plan.plan import largest_steps, make_plan
    from server.plan.report import render
    from server.plan.result_store import RESULTS, ResultStore

    request = request_of(preset)
    report = make_plan(
        request,
        names=largest_steps(request) if arguments.small else None,
        jobs=arguments.jobs,
        keep=Keep(results=ResultStore(RESULTS)),
        progress=ProgressLines(),
    )
    print(render(report))
    return report


if __name__ == "__main__":
    sys.exit(main())
