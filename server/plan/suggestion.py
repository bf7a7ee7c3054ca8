"""Suggests a change for a model that does not fit: the nearest setting or slice that has room.

The nearest change is the one that costs least: fewer bits for KV first, then for weights, then a
shorter context, then more chips. It is found by arithmetic on shapes; nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.plan.compilation import OutOfMemoryError
from server.plan.request import PlanRequest, has_room
from server.plan.slice_types import larger_slices

_SHORTEST_CONTEXT = 256


def nearest_change(request: PlanRequest) -> str:
    """Flags for the nearest request that has room, or a sentence that no request has room."""
    for flags, candidate in _candidates(request):
        if has_room(candidate):
            return flags
    return "none of these slices and settings has room"


def less_of(request: PlanRequest, error: OutOfMemoryError) -> str:
    """Flags that lower what the compiler found too large."""
    if error.space != "hbm" or not error.limit:
        return f"--max-num-seqs {max(1, request.engine.max_num_seqs // 2)}"
    excess = (error.used - error.limit) / request.slice.chip.hbm_bytes
    utilization = request.engine.hbm_utilization - excess - 0.01
    if utilization > 0 and has_room(request.changed(hbm_utilization=utilization)):
        return f"--hbm-utilization {utilization:.2f}"
    return nearest_change(request)


def _candidates(request: PlanRequest) -> Iterator[tuple[str, PlanRequest]]:
    yield from _same_slice(request)
    for larger in larger_slices(request.slice):
        elsewhere = request.changed(slice=larger, tensor_parallel_size=0)
        yield f"--slice {larger.name}", elsewhere
        for flags, candidate in _same_slice(elsewhere):
            yield f"--slice {larger.name} {flags}", candidate


def _same_slice(request: PlanRequest) -> Iterator[tuple[str, PlanRequest]]:
    if request.engine.tensor_parallel_size:
        yield "--tensor-parallel-size 0", request.changed(tensor_parallel_size=0)
    narrow_kv, narrow_weights = {"kv_dtype": "fp8"}, {"weight_dtype": "int8"}
    for settings in (narrow_kv, narrow_weights, narrow_kv | narrow_weights):
        yield _flags(settings), request.changed(None, **settings)
    context = request.context // 2
    while context >= _SHORTEST_CONTEXT:
        yield f"--context {context}", request.shortened(context)
        context //= 2


def _flags(settings: dict[str, str]) -> str:
    return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items())
