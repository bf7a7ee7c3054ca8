"""Lets the main thread wait for signals, whichever thread the kernel gives them to.

Blocking signals and waiting in `sigwait` is not enough. Libraries have threads of their own (as
NumPy's BLAS does) that block nothing, and a SIGTERM on such a thread would end the process at once.
So a handler notes each signal, whichever thread took it, and what Python writes to a pipe wakes the
waiting thread. The note counts, not the byte: the kernel may have no room for a byte.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_BYTES_AT_ONCE = 4096


class Signals:
    """Takes `numbers` while its `with` block runs. Main thread only; one object per process."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._taken: deque[int] = deque()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        self._received, written = socket.socketpair()
        for end in (self._received, written):
            end.setblocking(False)
            self._stack.enter_context(end)
        before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        for number in self._numbers:
            self._stack.callback(signal.signal, number, signal.signal(number, self._take))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def next(self, timeout: float | None = None) -> int | None:
        """Wait for a signal; None after `timeout` seconds. Several equal signals may become one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._taken:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._received], [], [], left)[0]:
                break
            self._received.recv(_BYTES_AT_ONCE)
        return self._taken.popleft() if self._taken else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep signals for later. A process that is started meanwhile begins with them blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _take(self, number: int, frame: object) -> None:
        """Python calls it on the main thread, between two of its instructions."""
        self._taken.append(number)
