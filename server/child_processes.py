"""The pipe from the main process to the processes it starts, and how they end with it.

A child's standard input is a pipe from the main process. It carries one line of JSON with the
child's task, then one command per line. Its end means that the main process is gone, and the child
exits too. On Linux the kernel ends even a child that is stopped. The child ignores signals, and the
main process handles them. Nothing here knows what the children do.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from server.config.config import Config
from server.threads import end_process, guarded

# drain: let running streams finish. stop: end running streams now.
Command = Literal["drain", "stop"]
# The signal by which a child asks the main process to drain the server. It differs from SIGTERM,
# because a second SIGTERM from an operator means to end at once.
DRAIN_SIGNAL = signal.SIGUSR1

_PR_SET_PDEATHSIG = 1
_ORPHANED = 1


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The task of a child. `link` is the path of the engine's socket.

    `model_file` is the content of the model configuration file with which the server started.
    `beats` is the descriptor into which an API process writes its beats; -1 for another process.
    """

    name: str
    config: Config
    link: str
    parent_pid: int
    model_file: bytes = b""
    beats: int = -1


class Child:
    """A process that was started with a task. Create it only on the main thread.

    (The kernel kills the child when the thread that started it ends.)
    """

    def __init__(
        self, command: list[str], task: Task, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` is added where this process's own does not say otherwise."""
        self.name = task.name
        # A session of its own, so that the terminal's Ctrl-C reaches only the main process.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env={**(environment or {}), **os.environ},
            start_new_session=True,
            pass_fds=() if task.beats < 0 else (task.beats,),
        )
        self._write(msgspec.json.encode(task))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command. Without effect if the child is gone; `exit_code` reports that."""
        self._write(command.encode())

    def exit_code(self) -> int | None:
        """None while the child runs; negative for the signal that ended it."""
        return self._process.poll()

    def kill(self) -> None:
        """End the child at once and reap it."""
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
    """Start a child: leave signals to the parent, die with the parent, read the task."""
    ignored = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
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
    """Start a thread that calls `on_command` per command and ends this child with its parent."""
    pipe = _pipe()
    # A child that hears no commands could be neither drained nor ended.
    thread = guarded(
        lambda: _watch(pipe, on_command), "control", on_fault=end_process, goes_on=False
    )
    thread.start()
    return thread


def ask_for_drain() -> None:
    """In a child: have the main process drain the server, if it does not drain already."""
    os.kill(os.getppid(), DRAIN_SIGNAL)


def _pipe() -> io.FileIO:
    """Standard input without a buffer: a waiting thread would hold its lock and block the exit."""
    return io.FileIO(sys.stdin.fileno(), closefd=False)


def _watch(pipe: Iterable[bytes], on_command: Callable[[Command], None]) -> None:
    for line in pipe:
        on_command(msgspec.convert(line.strip().decode(), Command))
    os._exit(_ORPHANED)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, for any reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
