"""The engine process's pulse: how it is doing, sent to every API process several times a second.

A thread of its own sends it whatever the main thread does, so that compiling is never mistaken for
hanging. It knows neither the step loop nor what the numbers mean.
"""

from __future__ import annotations

import threading

from server.link.server import LinkServer
from server.processes.engine.status import Status
from server.threads import guarded

PULSE_SECONDS = 0.1


class PulseSender:
    """Sends pulses from `start` to `stop`; `send` adds one at once."""

    def __init__(self, status: Status, link: LinkServer) -> None:
        self._status, self._link = status, link
        self._ended = threading.Event()
        # Rendering metrics is for one thread at a time, and pulses must not overtake each other.
        self._lock = threading.Lock()
        self._thread = guarded(self._run, "pulse")

    def start(self) -> None:
        self._thread.start()

    def send(self) -> None:
        """From any thread."""
        with self._lock:
            self._link.broadcast(self._status.pulse())

    def stop(self) -> None:
        """Send no more; waits for the last one."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PULSE_SECONDS):
            self.send()
