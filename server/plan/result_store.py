"""Keeps the reports of compiled programs in a folder, by the key of the program.

A key names the program's StableHLO, the software and the topology, so compiling again would give
the same report. A report that is missing or cannot be read is made by compiling again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from server.engine.programs.baked import ProgramKey
from server.plan.report import ProgramReport

# Where a command of this folder keeps its results.
RESULTS = Path(".cache/plan")


class ResultStore:
    """A folder with one file per report; the first `keep` makes the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: ProgramKey) -> ProgramReport | None:
        """The report of this program, if it was kept."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=ProgramReport)
        except (OSError, msgspec.MsgspecError):
            return None

    def keep(self, key: ProgramKey, report: ProgramReport) -> None:
        """Keep a report. A reader sees the whole file or no file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(key)
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(report))
        partial.replace(path)

    def _path(self, key: ProgramKey) -> Path:
        return self._folder / f"{key.digest}.json"
