"""Asks the TPU's SDK for the utilization of the TensorCores, from a separate process.

Only the SDK has this number: the runtime's gRPC service has no such metric. Where the SDK finds no
chips, a call may block for minutes and cannot be interrupted inside this process; a child process
can be ended. Run as a program, this module is that child: it prints the SDK's answer.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence

from server.child_processes import die_with_parent

METRIC = "tensorcore_util"
COMMAND = (sys.executable, "-P", "-m", "server.slice.tensorcore")
_TIMEOUT_SECONDS = 10.0

_log = logging.getLogger(__name__)


class TensorCoreReader:
    """Starts `command` for each read. `timeout` limits a read, in seconds. One thread reads."""

    def __init__(self, command: Sequence[str] = COMMAND, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._command, self._timeout = command, timeout
        self._child: subprocess.Popen[str] | None = None
        self._is_silent = self._is_closed = False

    def utilizations(self) -> dict[int, float]:
        """By TensorCore, 0 to 1; empty where the SDK has no answer."""
        try:
            percents = json.loads(self._ask())
            answer = {number: float(percent) / 100 for number, percent in enumerate(percents)}
        except (OSError, ValueError, TypeError, subprocess.TimeoutExpired) as error:
            self._complain(str(error))
            return {}
        self._is_silent = False
        return answer

    def close(self) -> None:
        """Stop reading, and end a read that is under way."""
        self._is_closed = True
        if self._child is not None:
            self._child.kill()

    def _ask(self) -> str:
        with subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            self._child = child
            try:
                if self._is_closed:
                    raise OSError("the reader is closed")
                return child.communicate(timeout=self._timeout)[0]
            finally:
                child.kill()
                self._child = None

    def _complain(self, reason: str) -> None:
        """Log a failure once, until the SDK answers again."""
        if not (self._is_silent or self._is_closed):
            _log.warning("the TPU's SDK gives no utilization of the TensorCores: %s", reason)
        self._is_silent = True


def main() -> None:
    """Print the SDK's answer as JSON: one percentage per TensorCore, as text."""
    die_with_parent()
    from libtpu.sdk import tpumonitoring

    print(json.dumps(list(tpumonitoring.get_metric(METRIC).data())))


if __name__ == "__main__":
    main()
