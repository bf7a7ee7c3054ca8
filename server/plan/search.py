"""Tries splits, dtypes and batch sizes, and keeps the few that decode best for a target.

The roofline bounds every candidate from above and costs nothing to compute. Candidates are compiled
in the order of that bound, until no remaining bound beats the worst kept candidate or enough
candidates were compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import msgspec

from models.attention.choice import BackendError
from models.sharding import MeshError, allowed_tensor_sizes
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.blueprint.chip_memory import SizeError
from server.engine.programs.inputs.buckets import Bucket
from server.plan.compilation import OutOfMemoryError, compile_programs
from server.plan.report import table
from server.plan.request import PlanRequest, blueprint_for
from server.plan.roofline import work_of

_SMALLEST_BATCH = 8
_KEPT = 5
_MOST_COMPILED = 10

# Called with the candidate that is compiled now, the number compiled, and the most there will be.
type Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target of a search.

    With a step time: the most tokens per second within that time. With a rate of the whole slice:
    the shortest step that reaches the rate. With neither: the most tokens per second.
    """

    step_ms: float = 0.0
    tokens_per_s: float = 0.0

    def score(self, step_ms: float, tokens_per_s: float) -> tuple[bool, float]:
        """Greater is better. The first part says whether the target is met."""
        if self.tokens_per_s:
            return tokens_per_s >= self.tokens_per_s, -step_ms
        return not self.step_ms or step_ms <= self.step_ms, tokens_per_s


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled candidate: `data` data ranks of `tensor` chips each."""

    data: int
    tensor: int
    weight_dtype: str
    kv_dtype: str
    max_num_seqs: int
    predicted_ms: float
    roofline_ms: float
    tokens_per_s_per_chip: float
    meets_target: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    request: PlanRequest
    blueprint: Blueprint
    batch: int
    roofline_ms: float

    @property
    def tensor(self) -> int:
        return self.blueprint.layout.tensor_size

    def tokens_per_s(self, step_ms: float) -> float:
        """The rate of the whole slice."""
        servers = self.request.slice.devices // self.tensor
        return self.batch * servers / step_ms * 1e3

    @property
    def label(self) -> str:
        engine = self.request.engine
        return (
            f"tensor {self.tensor}, weights {engine.weight_dtype}, KV {engine.kv_dtype}, "
            f"{self.batch} sequences"
        )


def search(
    request: PlanRequest, target: Target, progress: Progress = lambda label, done, most: None
) -> list[Found]:
    """The best candidates, best first; only those with room."""

    def bound(candidate: _Candidate) -> tuple[bool, float]:
        best_ms = candidate.roofline_ms
        return target.score(best_ms, candidate.tokens_per_s(best_ms))

    found: list[tuple[tuple[bool, float], Found]] = []
    candidates = sorted(_candidates(request), key=bound, reverse=True)
    most = min(_MOST_COMPILED, len(candidates))
    for done, candidate in enumerate(candidates[:most]):
        if len(found) == _KEPT and found[-1][0] >= bound(candidate):
            break
        progress(candidate.label, done, most)
        if (one := _compiled(candidate, target)) is not None:
            found = sorted([*found, one], key=lambda pair: pair[0], reverse=True)[:_KEPT]
    return [one for _, one in found]


def render_found(found: list[Found]) -> str:
    """The candidates as a table."""
    header = ["split", "weights", "KV", "sequences", "step ms", "roofline ms", "tokens/s per chip"]
    rows = [
        [
            f"{one.data} x tensor {one.tensor}",
            one.weight_dtype,
            one.kv_dtype,
            f"{one.max_num_seqs}",
            f"{one.predicted_ms:.2f}",
            f"{one.roofline_ms:.2f}",
            f"{one.tokens_per_s_per_chip:,.0f}" + ("" if one.meets_target else " (off target)"),
        ]
        for one in found
    ]
    return "\n".join(table(header, rows)) + "\n"


def _candidates(request: PlanRequest) -> Iterator[_Candidate]:
    devices, largest = request.slice.devices, request.engine.max_num_seqs
    sizes = [size for size in allowed_tensor_sizes(request.config, devices) if devices % size == 0]
    for size, weights, kv in product(sizes, ("auto", "int8"), ("auto", "fp8")):
        split = request.changed(tensor_parallel_size=size, weight_dtype=weights, kv_dtype=kv)
        batch = _SMALLEST_BATCH
        while batch <= largest:
            candidate = _candidate(split.changed(max_num_seqs=batch), batch)
            if candidate is None:
                break
            yield candidate
            batch *= 2


def _candidate(request: PlanRequest, batch: int) -> _Candidate | None:
    """The candidate for this batch size; None where the batch has no room."""
    try:
        blueprint = blueprint_for(request)
    except (SizeError, MeshError, BackendError):
        return None
    if blueprint.sizes.sequences_at(request.context) < batch:
        return None
    roofline = work_of(blueprint).decode(request.slice.chip, batch=batch, context=request.context)
    return _Candidate(
        request=request,
        blueprint=blueprint,
        batch=batch,
        roofline_ms=roofline.seconds * 1e3,
    )


def _compiled(candidate: _Candidate, target: Target) -> tuple[tuple[bool, float], Found] | None:
    """The candidate's decode step and its score; None where the compiler runs out of memory."""
    chip, engine = candidate.request.slice.chip, candidate.request.engine
    rows = max(bucket.num_rows for bucket in candidate.blueprint.ladder.buckets)
    bucket = Bucket(rows, rows, decode_only=True)
    try:
        (program,) = compile_programs(candidate.blueprint, [bucket])
    except OutOfMemoryError:
        return None
    roofline = work_of(candidate.blueprint).decode(
        chip, batch=candidate.batch, context=candidate.request.context
    )
    step_ms = roofline.predict(program.cycles, chip) * 1e3
    score = target.score(step_ms, candidate.tokens_per_s(step_ms))
    return score, Found(
        data=candidate.request.slice.devices // candidate.tensor,
        tensor=candidate.tensor,
        weight_dtype=engine.weight_dtype,
        kv_dtype=engine.kv_dtype,
        max_num_seqs=candidate.batch,
        predicted_ms=round(step_ms, 3),
        roofline_ms=round(candidate.roofline_ms, 3),
        tokens_per_s_per_chip=round(candidate.batch / step_ms * 1e3 / candidate.tensor, 1),
        meets_target=score[0],
    )
