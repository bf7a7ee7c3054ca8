"""Gives memory that a process has freed back to the system, which glibc keeps for itself."""

from __future__ import annotations

import ctypes
import gc


def return_free_memory() -> None:
    """Takes tens of milliseconds; from any thread. Without glibc, only Python's own is freed."""
    # An exception that refused a request refers to itself by its traceback, and to the request.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
