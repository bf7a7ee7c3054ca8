"""Memory that was freed below a piece that is still in use goes back to the system."""

from __future__ import annotations

import psutil

from server.free_memory import return_free_memory

PIECE = 1 << 16


def test_freed_pieces_below_one_in_use_go_back_to_the_system():
    pieces = [bytes([i % 256]) * PIECE for i in range(3000)]
    kept = pieces[-1]
    before = psutil.Process().memory_info().rss
    pieces.clear()
    return_free_memory()
    assert before - psutil.Process().memory_info().rss > 2000 * PIECE
    assert kept[0] == 2999 % 256
