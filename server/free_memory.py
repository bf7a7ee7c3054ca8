"""A process's memory after a large piece of work: what is free goes back, what is there stays.

glibc keeps freed memory for itself, and Python looks again and again at what is never freed. An
array of zeros needs no memory before something is written there.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def return_free_memory() -> None:
    """Takes tens of milliseconds; from any thread. Without glibc, only Python's own is freed."""
    # An exception that refused a request refers to itself by its traceback, and to the request.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle_memory() -> None:
    """What is there by now stays for the process's life: no collection looks at it again.

    JAX alone has so many objects that a collection would stop every stream for several steps.
    """
    return_free_memory()
    gc.freeze()


def return_zeros(address: int, size: int) -> bool:
    """Gives the pages of zeros within these bytes back to Linux; whether it has.

    They read as zeros again and take memory when they are written. Linux promises this for private
    memory without a file behind it, so nothing is done for any other. The bytes must be zeros.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length <= 0 or not _is_anonymous(first, first + length):
        return False
    libc = ctypes.CDLL(None)
    return not libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _is_anonymous(first: int, end: int) -> bool:
    """Whether one mapping has all these bytes, private and without a file; False if unknown."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        place, mode, _, _, inode, *_ = line.split()
        begin, last = (int(each, 16) for each in place.split("-"))
        if begin <= first and end <= last:
            return mode == "rw-p" and inode == "0"
    return False
