"""How the main process speaks to the processes it started, and how those die with it.

A child's standard input is a pipe from the main process: one line of JSON with the child's task,
then one command a line. Its end means that the main process is gone, whatever killed it, and the
child goes too; on Linux the kernel sees to that even for a child that is stopped. The child leaves
signals to the main process. Nothing here knows what the children do.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from server.config import Config

# drain: let running streams finish. stop: end them now.
Command = Literal["drain", "stop"]
# What a child sends to the main process when the server is to drain. A signal of its own: a second
# one of somebody's, who has lost patience, means another thing.
DRAIN_SIGNAL = signal.SIGUSR1

_PR_SET_PDEATHSIG = 1
_ORPHANED = 1


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a child needs to know. `link` is the path of the engine's socket."""

    name: str
    config: Config
    link: str
    parent_pid: int


class Child:
    """A process that was started with a task. Create it on the main thread only.

    (The kernel's promise to kill the child is tied to the life of the thread that started it.)
    """

    def __init__(self, command: list[str], task: Task) -> None:
        self.name = task.name
        # A session of its own keeps the terminal's Ctrl-C for the main process.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._write(msgspec.json.encode(task))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Pass a command on; a child that is gone is the business of `exit_code`."""
        self._write(command.encode())

    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once and reap it."""
        self._process.kill()
        self._process.wait()

    def _write(self, line: bytes) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise RuntimeError("the child was started without a pipe")
        try:
            pipe.write(line + b"\n")
            pipe.flush()
        except BrokenPipeError:
            return


def receive_task() -> Task:
    """In a child, first of all: leave signals to the parent, die with it, read the task."""
    ignored = (signal.SIGTERM, signal.SIGINT)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    die_with_parent()
    line = _pipe().readline()
    if not line:
        os._exit(_ORPHANED)
    task = msgspec.json.decode(line, type=Task)
    if os.getppid() != task.parent_pid:
        os._exit(_ORPHANED)
    return task


def watch_commands(on_command: Callable[[Command], None]) -> threading.Thread:
    """Start the thread that calls `on_command` for each command and ends an orphan."""
    thread = threading.Thread(
        target=_watch, args=(_pipe(), on_command), name="control", daemon=True
    )
    thread.start()
    return thread


def ask_for_drain() -> None:
    """In a child: have the main process drain the server, if it does not do so already."""
    os.kill(os.getppid(), DRAIN_SIGNAL)


def _pipe() -> io.FileIO:
    """Standard input without a buffer: its lock, held by a waiting thread, would forbid to exit."""
    return io.FileIO(sys.stdin.fileno(), closefd=False)


def _watch(pipe: Iterable[bytes], on_command: Callable[[Command], None]) -> None:
    for line in pipe:
        on_command(msgspec.convert(line.strip().decode(), Command))
    os._exit(_ORPHANED)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
