"""What to change where a model does not fit: the nearest setting or slice that has room.

By arithmetic on shapes; nothing is compiled. Near is what costs least: fewer bits for KV, then for
weights, then shorter contexts, then more chips.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.plan.compilation import OutOfMemoryError
from server.plan.request import PlanRequest, has_room
from server.plan.slice_types import larger_slices

_SHORTEST_CONTEXT = 256


def nearest_change(question: PlanRequest) -> str:
    """Flags for the nearest question that has room, or a sentence that there is none."""
    for flags, candidate in _candidates(question):
        if has_room(candidate):
            return flags
    return "none of these slices and settings has room"


def less_of(question: PlanRequest, error: OutOfMemoryError) -> str:
    """Flags for less of what the compiler found too large."""
    if error.space != "hbm" or not error.limit:
        return f"--max-num-seqs {max(1, question.engine.max_num_seqs // 2)}"
    excess = (error.used - error.limit) / question.slice.chip.hbm_bytes
    utilization = question.engine.hbm_utilization - excess - 0.01
    if utilization > 0 and has_room(question.changed(hbm_utilization=utilization)):
        return f"--hbm-utilization {utilization:.2f}"
    return nearest_change(question)


def _candidates(question: PlanRequest) -> Iterator[tuple[str, PlanRequest]]:
    yield from _same_slice(question)
    for larger in larger_slices(question.slice):
        elsewhere = question.changed(slice=larger, tensor_parallel_size=0)
        yield f"--slice {larger.name}", elsewhere
        for flags, candidate in _same_slice(elsewhere):
            yield f"--slice {larger.name} {flags}", candidate


def _same_slice(question: PlanRequest) -> Iterator[tuple[str, PlanRequest]]:
    if question.engine.tensor_parallel_size:
        yield "--tensor-parallel-size 0", question.changed(tensor_parallel_size=0)
    narrow_kv, narrow_weights = {"kv_dtype": "fp8"}, {"weight_dtype": "int8"}
    for settings in (narrow_kv, narrow_weights, narrow_kv | narrow_weights):
        yield _flags(settings), question.changed(None, **settings)
    context = question.context // 2
    while context >= _SHORTEST_CONTEXT:
        yield f"--context {context}", question.shortened(context)
        context //= 2


def _flags(settings: dict[str, str]) -> str:
    return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items())
