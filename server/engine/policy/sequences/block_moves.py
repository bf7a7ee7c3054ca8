"""Which KV blocks are copied from and to host memory before a step.

Numbers only: it knows neither what is in a block nor why it moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Move(NamedTuple):
    """A block of the device's pool, and a place of the host's."""

    block: int
    place: int


@dataclass(frozen=True, slots=True)
class BlockMoves:
    """What is copied before a step, of one kind: first all saves are read, then all restores
    written.

    A restore reads what its place held before the saves of the same step.
    """

    saves: tuple[Move, ...] = ()
    restores: tuple[Move, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.saves or self.restores)
