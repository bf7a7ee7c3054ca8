"""Reports the progress of compilation as lines on standard error."""

from __future__ import annotations

import sys
import time


class ProgressLines:
    """Writes one line per program, with the seconds since the line before."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        print(f"[{done:2}/{total}] {name}  {now - self._last:.1f} s", file=sys.stderr, flush=True)
        self._last = now
