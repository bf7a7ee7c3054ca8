"""Predicts the times of a decode and a prefill step, next to their rooflines.

A prediction is the compiler's cycles at an assumed clock, plus attention at its roofline. It is
good enough to rank candidates and to catch regressions. Each prediction lists what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.decoder.moe import DENSE_TOKENS
from server.engine.programs.blueprint.blueprint import Blueprint
from server.plan.report import Decode, Prefill, ProgramReport
from server.plan.roofline import Roofline, Work, work_of
from server.plan.slice_types import Chip


def predict_decode(
    blueprint: Blueprint, chip: Chip, programs: Sequence[ProgramReport], batch: int, context: int
) -> Decode | None:
    """The times of a step of `batch` sequences; None where no program for them was compiled."""
    program = _decode_program(programs, batch)
    if program is None or not chip.clock_hz:
        return None
    work = work_of(blueprint)
    roofline = work.decode(chip, batch=batch, context=context)
    seconds = roofline.predict(program.cycles, chip)
    return Decode(
        batch=batch,
        context=context,
        tokens_per_s_per_chip=round(batch / seconds / work.tensor_size, 1),
        **_times(roofline, program, chip),
    )


def predict_prefill(
    blueprint: Blueprint, chip: Chip, programs: Sequence[ProgramReport], context: int
) -> Prefill | None:
    """The times of the largest prefill step, full of prompts of `context` tokens."""
    program = _prefill_program(programs)
    if program is None or not chip.clock_hz:
        return None
    work = work_of(blueprint)
    roofline = work.prefill(chip, tokens=program.tokens, context=context)
    seconds = roofline.predict(program.cycles, chip)
    return Prefill(
        tokens=program.tokens,
        context=context,
        tokens_per_s_per_chip=round(program.tokens / seconds / work.tensor_size, 1),
        **_times(roofline, program, chip),
    )


def leaves_out(
    blueprint: Blueprint, chip: Chip, programs: Sequence[ProgramReport], batch: int
) -> list[str]:
    """What the predictions leave out: one sentence each, with its size where it is known."""
    steps = {"decode": _decode_program(programs, batch), "prefill": _prefill_program(programs)}
    found = {name: program for name, program in steps.items() if program is not None}
    if not found or not chip.clock_hz:
        return []
    return [*_left_out(chip, found), *_grouped_products(work_of(blueprint), chip, found)]


def _grouped_products(work: Work, chip: Chip, steps: dict[str, ProgramReport]) -> Iterator[str]:
    """Of steps whose experts run as kernels: with few tokens they are products with cycles."""
    for name, step in steps.items():
        seconds = work.experts_s(chip, tokens=step.tokens)
        if seconds and step.tokens > DENSE_TOKENS:
            yield (
                f"the experts' grouped products, which are kernels: {name} {seconds * 1e3:.2f} ms "
                "at their roofline, if the shards have equally many rows"
            )


def _left_out(chip: Chip, steps: dict[str, ProgramReport]) -> Iterator[str]:
    def each(text: str, numbers: dict[str, str]) -> str:
        return text + ": " + ", ".join(f"{name} {number}" for name, number in numbers.items())

    def milliseconds(size: int, per_second: float) -> str:
        return f"{size / 1e6:,.1f} MB, {size / per_second * 1e3:.2f} ms"

    yield "host and dispatch time, and the errors of the compiler's own model of the chip"
    yield f"the true clock: {chip.clock_hz / 1e9:.2f} GHz is assumed"
    yield "the time that attention takes beyond its roofline"
    launches = {name: f"{step.pallas_calls}" for name, step in steps.items()}
    yield each("kernel launches per step", launches)
    sent = {
        name: f"{step.collectives} of {milliseconds(step.collective_bytes, chip.ici_bytes_per_s)}"
        for name, step in steps.items()
    }
    if any(step.collectives for step in steps.values()):
        speed = f"{chip.ici_bytes_per_s / 1e9:.0f} GB/s per chip"
        yield each(
            f"collectives, and the time they add where nothing hides them ({speed} assumed)", sent
        )
    copied = {
        name: milliseconds(step.prefetch_bytes, chip.hbm_bytes_per_s)
        for name, step in steps.items()
    }
    yield each(
        "copies into VMEM, and the time they add where the computation does not hide them", copied
    )
    dear = {
        name: f"{step.conditional_cycles / chip.clock_hz * 1e3:.2f} ms"
        for name, step in steps.items()
    }
    yield each(
        "sampling beyond greedy (noise, filters, penalties, log probabilities), all at once", dear
    )
    if any(step.unknown_loops for step in steps.values()):
        loops = {name: f"{step.unknown_loops}" for name, step in steps.items()}
        yield each("loops whose number of trips depends on data, counted as one trip", loops)


def _decode_program(programs: Sequence[ProgramReport], batch: int) -> ProgramReport | None:
    fitting = [one for one in programs if one.kind == "decode" and one.rows >= batch]
    return min(fitting, key=lambda program: program.rows, default=None)


def _prefill_program(programs: Sequence[ProgramReport]) -> ProgramReport | None:
    mixed = [one for one in programs if one.kind == "prefill"]
    return max(mixed, key=lambda program: program.tokens, default=None)


def _times(roofline: Roofline, program: ProgramReport, chip: Chip) -> dict[str, float]:
    seconds = roofline.predict(program.cycles, chip)
    return {
        "predicted_ms": round(seconds * 1e3, 3),
        "roofline_ms": round(roofline.seconds * 1e3, 3),
        "roofline_fraction": round(roofline.seconds / seconds, 4),
        "attention_ms": round(roofline.attention_s * 1e3, 3),
        "conditional_ms": round(program.conditional_cycles / chip.clock_hz * 1e3, 3),
    }
