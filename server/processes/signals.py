"""Signals as something to wait for, whichever thread of the process the kernel hands them to.

Blocking them and waiting in `sigwait` is not enough: libraries have threads of their own (NumPy's
BLAS has), which block nothing, and a SIGTERM given to one of those would end the process there and
then. A handler that does nothing takes them on any thread; Python writes each to a pipe.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Signals:
    """Takes `numbers` from `with` to its end. Main thread only, one at a time in a process."""

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
        """Wait for a signal; None if there is none in `timeout` seconds. Equal ones may be one."""
        if not select.select([self._received], [], [], timeout)[0]:
            return None
        return self._received.recv(1)[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep them for later. A process started meanwhile begins with them blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take(number: int, frame: object) -> None:
    """The number is in the pipe already."""
