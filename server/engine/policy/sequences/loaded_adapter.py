"""One loading of a low-rank adapter, by which sequences, slots and weights name it.

A name and numbers only: what an adapter is, and where it lies, others know.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """The same adapter loaded again is another, because its files may be others."""

    name: str
    version: str = ""
    number: int = 0


# An adapter, and the number of the slot that it is put into, from 1.
type Placement = tuple[LoadedAdapter, int]
