"""Compiles all programs of a blueprint in threads, so that the start can read weights meanwhile.

The longest programs begin first, because the last one to end decides. Knows no weights and runs no
program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import jax

from server.engine.programs.baked import BakedCounts, Compiler
from server.engine.programs.blueprint.blueprint import Blueprint
from server.engine.programs.programs import PickSize, ProgramName

type Progress = Callable[[str, float], None]

# XLA compiles one program mostly on one core, so several programs are compiled at once.
_THREADS = 4

_log = logging.getLogger(__name__)


class Compiling:
    """Begins at once. Call either `wait` or `cancel`."""

    def __init__(self, blueprint: Blueprint, compiler: Compiler) -> None:
        self._compiler, self._programs = compiler, blueprint.programs()
        self._pool = ThreadPoolExecutor(_THREADS)
        self._running = {self._pool.submit(self._compile, name): name for name in _names(blueprint)}

    def wait(self, progress: Progress) -> dict[ProgramName, jax.stages.Compiled]:
        """All programs, when the last one is there. Raises the first error of a compilation."""
        compiled: dict[ProgramName, jax.stages.Compiled] = {}
        total = len(self._running)
        try:
            for i, done in enumerate(as_completed(self._running), start=1):
                compiled[self._running[done]] = done.result()
                progress(f"compiled {i} of {total} programs", i / total)
        finally:
            self.cancel()
        _log_counts(self._compiler.counts)
        return compiled

    def cancel(self) -> None:
        """Begin no more programs. Those under way cannot be interrupted, and nobody waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compile(self, name: ProgramName) -> jax.stages.Compiled:
        return self._compiler.compile(name, self._programs.lower(name))


def _names(blueprint: Blueprint) -> list[ProgramName]:
    ladder = blueprint.ladder
    picks = [PickSize(num_rows) for num_rows in ladder.draw_counts]
    adapters: list[ProgramName] = ["set_adapter", "make_adapters"]
    blocks: list[ProgramName] = ["save_blocks", "restore_blocks"]
    images: list[ProgramName] = ["encode_image", "make_images"]
    return [
        *sorted(ladder.buckets, reverse=True),
        "draw",
        *picks,
        "set_slot",
        "make_state",
        *(adapters if blueprint.layout.adapters else []),
        *(blocks if blueprint.sizes.num_host_blocks else []),
        *(images if blueprint.sizes.images else []),
    ]


def _log_counts(counts: BakedCounts) -> None:
    if counts.hits + counts.misses:
        _log.info(
            "baked programs: %d loaded, %d compiled, about %.1f s saved",
            counts.hits,
            counts.misses,
            counts.saved_seconds,
        )
