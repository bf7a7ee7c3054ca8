"""The real engine process, which stops for good in one phase of a change of versions.

PAUSE_IN is the phase's words, as a version's status has them, PAUSE_TURN the time at which they
come, from 1, and PAUSE_FILE the file that says that the phase was reached.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from server.processes.engine.build import build_model_runner
from server.processes.engine.run import run_engine_process


class Pause(logging.Handler):
    """Sleeps where the phase is logged: on the thread that changes versions, in the phase."""

    def __init__(self) -> None:
        super().__init__()
        self._left = int(os.environ["PAUSE_TURN"])

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "detail", None) != os.environ["PAUSE_IN"]:
            return
        self._left -= 1
        if self._left == 0:
            Path(os.environ["PAUSE_FILE"]).write_text(record.getMessage())
            time.sleep(600)


if __name__ == "__main__":
    logging.getLogger("server.versions.version_swap").addHandler(Pause())
    sys.exit(run_engine_process(build_model_runner))
