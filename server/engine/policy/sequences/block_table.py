"""The KV blocks of one sequence in one kind of layers, as numbers.

Plain Python, but in C's layout: a step copies every table whole, and NumPy reads it at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

# 0 stands for a block that was given back; these come first.
type BlockTable = array[int]


def block_table(blocks: Iterable[int]) -> BlockTable:
    """A table of these blocks."""
    return array("i", blocks)
