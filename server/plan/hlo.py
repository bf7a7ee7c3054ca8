"""Reads the text of an optimized HLO module: its computations, instructions, shapes and loops.

The text is libtpu's, as `Compiled.as_text()` gives it. The parser covers only the part of HLO's
grammar that `cost` needs. Knows neither cycles nor collectives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1,
    "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
    "f64": 8,
}  # fmt: skip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\dm\d(?:fn)?)?)\[([\d,]*)\](\{[^}]*\})?")
_ALIAS = re.compile(r"\{[\d, ]*\}: \((\d+),")
_BRANCHES = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_COMPARED = re.compile(r"compare\(%?([\w.\-]+), %?([\w.\-]+)\)")
_KNOWN_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True, slots=True)
class Shape:
    """One array of an HLO type. `is_on_chip`: the array is in VMEM, not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    is_on_chip: bool

    @property
    def num_bytes(self) -> int:
        return math.ceil(math.prod(self.dims) * _BYTES[self.dtype])


@dataclass(frozen=True, slots=True)
class Instruction:
    """`rest` is all that follows the type: opcode, operands and attributes."""

    name: str
    opcode: str
    type: str
    rest: str

    @property
    def shapes(self) -> list[Shape]:
        """The arrays of the instruction's result."""
        return parse_shapes(self.type)

    @property
    def num_bytes(self) -> int:
        return sum(shape.num_bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The name of the computation that an attribute refers to, as in `body=%name`."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found[1]

    @property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses from."""
        names: list[str] = []
        for one, several in _BRANCHES.findall(self.rest):
            names += [one] if one else [name.strip().lstrip("%") for name in several.split(",")]
        return names


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed module. `aliased`: numbers of the parameters whose buffer a result reuses."""

    computations: dict[str, list[Instruction]]
    entry: str
    aliased: frozenset[int]

    def parameters(self) -> Iterator[tuple[int, Instruction]]:
        """The entry's parameters by number."""
        for instruction in self.computations[self.entry]:
            if instruction.opcode == "parameter":
                yield int(instruction.rest.split("(", 1)[1].split(")", 1)[0]), instruction

    def trips(self, loop: Instruction) -> int | None:
        """The trips of a while loop that counts from 0 by 1 to a constant, as JAX's do; or None."""
        if (known := _KNOWN_TRIPS.search(loop.rest)) is not None:
            return int(known[1])
        condition = self.computations.get(loop.attribute("condition") or "", [])
        constants = {one.name: _constant(one) for one in condition if one.opcode == "constant"}
        for instruction in condition:
            compared = _COMPARED.search(instruction.rest)
            if compared is not None and "direction=LT" in instruction.rest:
                return constants.get(compared[2])
        return None


def parse_module(text: str) -> Module:
    """The module of an HLO text. Raises ValueError where the text has no entry."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    entry = None
    lines = text.splitlines()
    for line in lines:
        if (start := _COMPUTATION.match(line)) is not None:
            current = computations.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif (found := _INSTRUCTION.match(line)) is not None:
            current.append(_instruction(found[1], found[2]))
    if entry is None:
        raise ValueError("the HLO text has no entry computation")
    return Module(computations, entry, _aliased(lines[0]))


def parse_shapes(text: str) -> list[Shape]:
    """Every array named in a type."""
    return [
        Shape(dtype, tuple(int(dim) for dim in dims.split(",") if dim), "S(1)" in layout)
        for dtype, dims, layout in _SHAPE.findall(text)
        if dtype in _BYTES
    ]


def _instruction(name: str, text: str) -> Instruction:
    end = _end_of_tuple(text) if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.match(text[end:])
    return Instruction(name, opcode[1] if opcode else "", text[:end], text[end:].strip())


def _end_of_tuple(text: str) -> int:
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _aliased(header: str) -> frozenset[int]:
    _, found, rest = header.partition("input_output_alias={")
    if not found:
        return frozenset()
    return frozenset(int(number) for number in _ALIAS.findall(rest.split(" }", 1)[0]))


def _constant(instruction: Instruction) -> int | None:
    found = re.match(r"constant\((\d+)\)", instruction.rest)
    return int(found[1]) if found else None
