"""Tries options of the compiler on the two steps that decide, and keeps those that help.

One candidate is compiled at a time, on top of what was kept so far. It is kept where the predicted
time falls and the temporaries hold their limit. The steps are the largest decode and the largest
prefill; what helps them is used for all steps of their kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from server.config.compiler_options import ALLOWED_OPTIONS, Options, OptionsByKind
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.compiler_options import CompilerOptions, StepKind, kind_of_step
from server.engine.programs.inputs.buckets import Bucket
from server.plan.compilation import Keep, OutOfMemoryError, compile_programs
from server.plan.report import TEMP_BYTES, ProgramReport
from server.plan.request import PlanRequest, blueprint_for
from server.plan.roofline import Roofline, work_of

# The values to try of each option, in this order.
CANDIDATES: Mapping[str, tuple[int, ...]] = {
    "xla_tpu_control_large_2nd_minor_layout_for_x16": (0,),
    "xla_tpu_scoped_vmem_limit_kib": (49152, 65536, 81920, 98304),
}
assert CANDIDATES.keys() == ALLOWED_OPTIONS.keys()

# Gains below this share are the compiler's noise.
_LEAST_GAIN = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One compiled candidate. `predicted_ms` is infinite where the compiler ran out of memory."""

    kind: StepKind
    options: Options
    predicted_ms: float = math.inf
    share: float = 0.0
    temp_bytes: int = 0
    kept: bool = False


# Called with each trial as soon as it was compiled.
type OnTrial = Callable[[Trial], None]


def tune(
    request: PlanRequest,
    names: list[Bucket],
    keep: Keep,
    on_trial: OnTrial = lambda trial: None,
) -> OptionsByKind:
    """The options that were kept, for the kind of each of these steps.

    Raises OutOfMemoryError where a step does not fit without options.
    """
    blueprint = blueprint_for(request)
    return {kind_of_step(name): _tune(request, blueprint, name, keep, on_trial) for name in names}


def _tune(
    request: PlanRequest, blueprint: Blueprint, name: Bucket, keep: Keep, on_trial: OnTrial
) -> Options:
    kind, roofline = kind_of_step(name), _roofline(request, blueprint, name)

    def attempt(options: Options) -> Trial:
        program = _compile(blueprint, name, options, keep)
        seconds = roofline.predict(program.cycles, request.slice.chip)
        return Trial(
            kind=kind,
            options=options,
            predicted_ms=seconds * 1e3,
            share=roofline.seconds / seconds,
            temp_bytes=program.temp_bytes,
        )

    best = attempt({})
    on_trial(replace(best, kept=True))
    # A step that exceeds the limit without options may keep what it takes.
    limit = max(TEMP_BYTES[kind], best.temp_bytes)
    for option, value in _candidates():
        options = {**best.options, option: value}
        try:
            trial = attempt(options)
        except OutOfMemoryError:
            on_trial(Trial(kind=kind, options=options))
            continue
        is_better = trial.predicted_ms < best.predicted_ms * (1 - _LEAST_GAIN)
        trial = replace(trial, kept=is_better and trial.temp_bytes <= limit)
        on_trial(trial)
        best = trial if trial.kept else best
    return best.options


def _candidates() -> Iterator[tuple[str, int]]:
    return ((option, value) for option, values in CANDIDATES.items() for value in values)


def _roofline(request: PlanRequest, blueprint: Blueprint, name: Bucket) -> Roofline:
    work, chip, context = work_of(blueprint), request.slice.chip, request.context
    if not name.decode_only:
        return work.prefill(chip, tokens=name.num_tokens, context=context)
    batch = min(blueprint.sizes.sequences_at(context), request.engine.max_num_seqs)
    return work.decode(chip, batch=batch, context=context)


def _compile(blueprint: Blueprint, name: Bucket, options: Options, keep: Keep) -> ProgramReport:
    by_kind: OptionsByKind = {kind_of_step(name): options}
    with_options = replace(blueprint, compiler_options=CompilerOptions(by_kind=by_kind))
    (program,) = compile_programs(with_options, [name], keep=keep)
    return program


def render_trial(trial: Trial) -> str:
    """One line about a trial."""
    spelled = " ".join(f"{option}={value}" for option, value in trial.options.items()) or "none"
    if math.isinf(trial.predicted_ms):
        return f"{trial.kind}: {spelled}: does not fit"
    kept = "kept" if trial.kept else "no gain"
    return (
        f"{trial.kind}: {spelled}: {trial.predicted_ms:.2f} ms, {trial.share:.1%}, temporaries "
        f"{trial.temp_bytes / 1e6:,.0f} MB: {kept}"
    )
