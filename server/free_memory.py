"""A process's memory after a large piece of work: what is free goes back, what is there stays.

glibc keeps freed memory for itself, and Python looks again and again at what is never freed.
"""

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


def settle_memory() -> None:
    """What is there by now stays for the process's life: no collection looks at it again.

    JAX alone has so many objects that a collection would stop every stream for several steps.
    """
    return_free_memory()
    gc.freeze()
