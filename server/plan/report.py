"""The result of a plan: data with stable names (its JSON) and a table for a terminal.

All bytes are of one chip. This module computes only sums and units.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

_GIB = 1 << 30
_WIDTH = 100

type Kind = Literal["decode", "prefill", "other"]

# The most bytes of temporaries that a step of a kind should have on each chip.
TEMP_BYTES: Mapping[Kind, int] = {
    "decode": 50_000_000,
    "prefill": 128_000_000,
    "other": 128_000_000,
}


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one compiled program needs of one chip.

    `tokens` and `rows` are the sizes of a step. `total_bytes` is all the memory that the program
    holds while it runs.
    """

    kind: Kind
    bucket: str
    tokens: int
    rows: int
    compile_s: float
    temp_bytes: int
    alias_bytes: int
    pool_alias_bytes: int
    total_bytes: int
    cycles: int
    conditional_cycles: int
    pallas_calls: int
    collectives: int
    collective_bytes: int
    prefetch_bytes: int
    unknown_loops: int
    program_hash: str


class HbmBytes(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one chip. `total` is what the largest program holds while it runs.

    `states` is of the layers that have a state in the place of keys and values.
    """

    weights: int
    kv: int
    sampler: int
    temp: int
    total: int
    limit: int
    states: int = 0


class MeshSize(msgspec.Struct, frozen=True, kw_only=True):
    """`data` servers of `tensor` chips each share the slice."""

    data: int
    tensor: int


class Decode(msgspec.Struct, frozen=True, kw_only=True):
    """A step of `batch` sequences with `context` tokens each.

    `conditional_ms` is added to `predicted_ms` where sampling uses every option.
    """

    batch: int
    context: int
    predicted_ms: float
    roofline_ms: float
    roofline_fraction: float
    tokens_per_s_per_chip: float
    attention_ms: float
    conditional_ms: float


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of `tokens` of a prompt of `context` tokens; times are means over the prompt."""

    tokens: int
    context: int
    predicted_ms: float
    roofline_ms: float
    roofline_fraction: float
    tokens_per_s_per_chip: float
    attention_ms: float
    conditional_ms: float


class Software(msgspec.Struct, frozen=True, kw_only=True):
    jax: str
    jaxlib: str
    libtpu: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole plan. In a report, a chip is one JAX device.

    Where the model does not fit, `reason` says why and `nearest_change` says which flags would fit.
    `notes` are what the server computes otherwise than the checkpoint says.
    `concurrent_sequences` is the number of sequences of `context` tokens that fit the KV pool;
    `concurrent_sequences_of_two` is that number next to a second version of the weights.
    """

    model: str
    slice: str
    devices: int
    devices_per_chip: int
    hosts: int
    mesh: MeshSize
    weight_dtype: str
    kv_dtype: str
    max_num_seqs: int
    context: int
    hbm_bytes_per_chip: HbmBytes
    software: Software
    fits: bool = False
    two_versions_fit: bool = False
    kv_tokens: int = 0
    concurrent_sequences: int = 0
    concurrent_sequences_of_two: int = 0
    decode: Decode | None = None
    prefill: Prefill | None = None
    programs: list[ProgramReport] = []
    leaves_out: list[str] = []
    notes: list[str] = []
    serve_flags: list[str] = []
    reason: str = ""
    nearest_change: str = ""


def render(report: Report) -> str:
    """The report as text, about 100 columns wide."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    mesh, hosts = report.mesh, "1 host" if report.hosts == 1 else f"{report.hosts} hosts"
    servers = "" if mesh.data == 1 else f", {mesh.data} data ranks of {mesh.tensor} chips each"
    yield (
        f"{report.model} on {report.slice}: {_chips(report)}, {hosts}; tensor parallel "
        f"{mesh.tensor}{servers}; weights {report.weight_dtype}, KV {report.kv_dtype}"
    )
    yield ""
    yield from _verdict(report)
    yield from (line for note in report.notes for line in textwrap.wrap(note, _WIDTH))
    yield ""
    yield from _memory(report)
    if report.programs:
        yield ""
        yield from _programs(report.programs)
    if report.decode is not None and report.prefill is not None:
        yield ""
        yield from _times(report.decode, report.prefill)
    if report.leaves_out:
        yield ""
        yield "The prediction leaves out:"
        yield from (f"- {sentence}" for sentence in report.leaves_out)
    if report.fits:
        yield ""
        yield "antipode serve " + " ".join(report.serve_flags)


def _chips(report: Report) -> str:
    chips = report.devices // report.devices_per_chip
    counted = "1 chip" if chips == 1 else f"{chips} chips"
    if report.devices_per_chip == 1:
        return counted
    return f"{counted} of {report.devices_per_chip} devices; below, each device is called a chip"


def _verdict(report: Report) -> Iterator[str]:
    if not report.fits:
        yield f"does not fit: {report.reason}"
        if report.nearest_change:
            yield f"nearest change that fits: {report.nearest_change}"
        return
    yield (
        f"fits: {report.kv_tokens:,} tokens of KV, {report.concurrent_sequences:,} sequences of "
        f"{report.context:,} tokens at once ({report.max_num_seqs:,} asked for)"
    )
    of_two = f"{report.concurrent_sequences_of_two:,} such sequences"
    answer = "fit" if report.two_versions_fit else "do not fit"
    yield f"two versions of the weights {answer} next to the requested KV: {of_two} have room"


def _memory(report: Report) -> Iterator[str]:
    memory = report.hbm_bytes_per_chip
    rows = [
        ("weights", memory.weights),
        ("KV pool", memory.kv),
        ("states", memory.states),
        ("sampler", memory.sampler),
        ("temporaries", memory.temp),
        ("total", memory.total),
        ("limit", memory.limit),
    ]
    yield from table(
        ["memory per chip", "GiB"], [[name, f"{size / _GIB:.2f}"] for name, size in rows if size]
    )


def _programs(programs: Sequence[ProgramReport]) -> list[str]:
    header = ["program", "compile s", "temp MB", "aliased MB", "pool aliased MB", "kcycles"]
    header += ["kernels", "collectives", "sent MB"]
    rows = [
        [
            program.bucket,
            f"{program.compile_s:.1f}",
            f"{program.temp_bytes / 1e6:,.1f}",
            f"{program.alias_bytes / 1e6:,.0f}",
            f"{program.pool_alias_bytes / 1e6:,.0f}",
            f"{program.cycles / 1e3:,.0f}",
            f"{program.pallas_calls}",
            f"{program.collectives}",
            f"{program.collective_bytes / 1e6:,.1f}",
        ]
        for program in programs
    ]
    return table(header, rows)


def _times(decode: Decode, prefill: Prefill) -> list[str]:
    header = ["step", "predicted ms", "attention ms", "roofline ms", "of roofline"]
    header += ["tokens/s per chip"]
    steps: list[tuple[str, Decode | Prefill]] = [
        (f"decode, {decode.batch} x {decode.context:,}", decode),
        (f"prefill, {prefill.tokens:,} of {prefill.context:,}", prefill),
    ]
    rows = [
        [
            name,
            f"{step.predicted_ms:.2f}",
            f"{step.attention_ms:.2f}",
            f"{step.roofline_ms:.2f}",
            f"{step.roofline_fraction:.0%}",
            f"{step.tokens_per_s_per_chip:,.0f}",
        ]
        for name, step in steps
    ]
    return table(header, rows)


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Columns as wide as their longest cell; the first is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        first, *others = (cell for cell in row)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
