"""Lets the main thread wait for signals, whichever thread the kernel gives them to.

Blocking signals and waiting in `sigwait` is not enough. Libraries have threads of their own (as
NumPy's BLAS does) that block nothing, and a SIGTERM on such a thread would end the process at once.
So a handler that does nothing takes the signals on any thread, and Python writes each to a pipe.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Signals:
    """Takes `numbers` while its `with` block runs. Main thread only; one object per process."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        self._received, written = socket.socketpair()
        for end in (self._received, written):
            end.setblocking(False)
            self._stack.enter_context(end)
        before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        for number in self._numbers:
            self._stack.callback(signal.signal, number, signal.signal(number, _take))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def next(self, timeout: float | None = None) -> int | None:
        """Wait for a signal; None after `timeout` seconds. Several equal signals may become one."""
        if not select.select([self._received], [], [], timeout)[0]:
            return None
        return self._received.recv(1)[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep signals for later. A process that is started meanwhile begins with them blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take(number: int, frame: object) -> None:
    """Do nothing: Python has already written the number to the pipe."""
