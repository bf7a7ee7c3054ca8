"""Freed memory goes back to the system, also below a piece that is in use; zeros do too."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import psutil

from server.free_memory import return_free_memory, return_zeros

PIECE = 1 << 16


def test_freed_pieces_below_one_in_use_go_back_to_the_system():
    pieces = [bytes([i % 256]) * PIECE for i in range(3000)]
    kept = pieces[-1]
    before = psutil.Process().memory_info().rss
    pieces.clear()
    return_free_memory()
    assert before - psutil.Process().memory_info().rss > 2000 * PIECE
    assert kept[0] == 2999 % 256


def test_zeros_take_memory_again_when_something_is_written():
    array = np.zeros(64 << 20, np.uint8)
    array += 0
    assert num_resident_pages(array) == num_whole_pages(array)
    assert return_zeros(array.ctypes.data, array.nbytes)
    assert num_resident_pages(array) == 0
    array[1234567] = 7
    assert 0 < num_resident_pages(array) < num_whole_pages(array) / 8
    assert array.sum() == 7
    array[:] = 7
    assert num_resident_pages(array) == num_whole_pages(array)


def test_the_ends_of_pages_that_are_shared_with_others_stay():
    array = np.ones(16 << 20, np.uint8)
    inner = array[100_003 : 9 << 20]
    inner[:] = 0
    assert return_zeros(inner.ctypes.data, inner.nbytes)
    assert array.sum() == len(array) - len(inner)


def test_memory_of_a_file_and_parts_of_a_page_are_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        assert not return_zeros(view.ctypes.data, view.nbytes)
        del view
    array = np.ones(100, np.uint8)
    assert not return_zeros(array.ctypes.data, array.nbytes)
    assert array.all()


def whole_pages(array: np.ndarray) -> tuple[int, int]:
    """The first whole page's address, and how many there are."""
    first = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    return first, (array.ctypes.data + array.nbytes - first) // mmap.PAGESIZE


def num_whole_pages(array: np.ndarray) -> int:
    return whole_pages(array)[1]


def num_resident_pages(array: np.ndarray) -> int:
    """Asked of Linux for this array alone: the process's other threads take memory too."""
    first, count = whole_pages(array)
    states = (ctypes.c_ubyte * count)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(count * mmap.PAGESIZE), states)
    return sum(state & 1 for state in states)
