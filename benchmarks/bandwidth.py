"""Measures the memory bandwidth that a decode step could use: all cores read at once.

A decode step must read every weight once, so it takes at least bytes / bandwidth. Knows no model.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 1 << 30
_REPEATS = 5


def read_bandwidth() -> float:
    """Bytes per second in the best of several passes over 1 GiB, split over the cores."""
    cores = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(_BYTES // 8, np.int64), cores)
    with ThreadPoolExecutor(cores) as pool:
        return _BYTES / min(_pass(pool, parts) for _ in range(_REPEATS))


def _pass(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> float:
    start = time.perf_counter()
    list(pool.map(np.max, parts))
    return time.perf_counter() - start
