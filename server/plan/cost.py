"""The cost of a compiled program: the compiler's cycles, and counts where it gives no cycles.

libtpu writes an estimate of cycles on each instruction it has a model for. These are summed along
the program; the body of a loop counts once per trip. A conditional counts as its cheapest branch,
because most requests use no costly sampling option; the difference to its dearest branch is summed
separately. Kernels (Pallas calls), collectives and copies between memories carry no cycles, so
they are counted instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.plan.hlo import Instruction, Module, Shape

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# What libtpu writes where it has no estimate.
_NO_ESTIMATE = 2**63 - 1
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_ASYNC_COPIES = ("copy-start", "slice-start", "dynamic-slice-start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a program on one chip.

    `conditional_cycles` are added to `cycles` where every conditional takes its dearest branch.
    `collective_bytes` are the bytes that the chip sends. `prefetch_bytes` are the bytes copied from
    HBM into VMEM during the computation. `unknown_loops` are loops whose number of trips depends on
    data; each is counted as one trip.
    """

    cycles: int = 0
    conditional_cycles: int = 0
    pallas_calls: int = 0
    collectives: int = 0
    collective_bytes: int = 0
    prefetch_bytes: int = 0
    unknown_loops: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in _FIELDS})

    def times(self, trips: int) -> Cost:
        return Cost(**{name: getattr(self, name) * trips for name in _FIELDS})


_FIELDS = tuple(Cost.__dataclass_fields__)


def cost_of(module: Module) -> Cost:
    """The cost of a module's entry."""
    return _cost_of(module, module.entry)


def aliased_bytes(module: Module, shapes: Iterable[Shape]) -> int:
    """The total bytes of the aliased parameters that have one of these shapes."""
    wanted = {(shape.dtype, shape.dims) for shape in shapes}
    total = 0
    for number, parameter in module.parameters():
        (shape,) = parameter.shapes
        if number in module.aliased and (shape.dtype, shape.dims) in wanted:
            total += shape.num_bytes
    return total


def _cost_of(module: Module, name: str) -> Cost:
    total = Cost()
    for instruction in module.computations.get(name, ()):
        total += _cost_of_instruction(module, instruction)
    return total


def _cost_of_instruction(module: Module, instruction: Instruction) -> Cost:
    match instruction.opcode:
        case "while":
            trips = module.trips(instruction)
            body = _cost_of(module, instruction.attribute("body") or "")
            if trips is None:
                return body + Cost(unknown_loops=1)
            return body.times(trips)
        case "conditional":
            return _cheapest([_cost_of(module, branch) for branch in instruction.branches])
        case "call":
            return _cost_of(module, instruction.attribute("to_apply") or "")
        case "call-start":
            # A v7x leaves collectives to its sparse cores, which compute beside the rest.
            return replace(_cost_of(module, instruction.attribute("to_apply") or ""), cycles=0)
        case "custom-call" if 'custom_call_target="tpu_custom_call"' in instruction.rest:
            return Cost(cycles=_cycles(instruction), pallas_calls=1)
        case opcode if opcode in _ASYNC_COPIES:
            on_chip = [shape.num_bytes for shape in instruction.shapes if shape.is_on_chip]
            return Cost(prefetch_bytes=max(on_chip, default=0))
    return Cost(cycles=_cycles(instruction)) + _collective(module, instruction)


def _cycles(instruction: Instruction) -> int:
    found = _CYCLES.search(instruction.rest)
    cycles = int(found[1]) if found else 0
    return 0 if cycles == _NO_ESTIMATE else cycles


def _cheapest(branches: list[Cost]) -> Cost:
    """The branch with the fewest cycles, with the difference to the dearest as conditional."""
    cheapest = min(branches, key=lambda cost: cost.cycles)
    dearest = max(cost.cycles + cost.conditional_cycles for cost in branches)
    return cheapest + Cost(
        conditional_cycles=dearest - cheapest.cycles - cheapest.conditional_cycles
    )


def _collective(module: Module, instruction: Instruction) -> Cost:
    kind, group = instruction.opcode.removesuffix("-start"), _group_size(instruction)
    called = instruction.attribute("calls") or ""
    if instruction.opcode == "fusion" and called.startswith("all-reduce-scatter"):
        # libtpu's reduce-scatter is an all-reduce where each chip keeps only its own part.
        kind = "reduce-scatter"
        group = max((_group_size(one) for one in module.computations.get(called, ())), default=1)
    sent = _sent_bytes(kind, instruction, group)
    return Cost(collectives=int(sent > 0), collective_bytes=sent)


def _sent_bytes(kind: str, instruction: Instruction, group: int) -> int:
    """The bytes that one chip sends in a collective over a ring of `group` chips."""
    shapes = [shape.num_bytes for shape in instruction.shapes]
    is_async = instruction.opcode.endswith("-start") and kind != "all-reduce"
    result = max(shapes, default=0) if is_async else sum(shapes)
    match kind:
        case "all-reduce":
            return 2 * (group - 1) * result // group
        case "reduce-scatter":
            return (group - 1) * result
        case "all-gather" | "all-to-all":
            return (group - 1) * result // group
        case "collective-permute":
            return result
    return 0


def _group_size(instruction: Instruction) -> int:
    """The number of chips in a collective, in any notation that HLO has for groups."""
    if (mesh := _MESH_GROUPS.search(instruction.rest)) is not None:
        sizes = dict(axis.split("=") for axis in mesh[1].replace("'", "").split(","))
        size = 1
        for axis in mesh[2].replace("'", "").split(","):
            size *= int(sizes[axis.strip()])
        return size
    if (groups := _GROUPS.search(instruction.rest)) is not None:
        return len(groups[1].split(",")) if groups[1] else int(groups[3])
    return 1
