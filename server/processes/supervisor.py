"""The main process: starts the other processes, passes signals on, and returns the exit code.

SIGTERM, SIGINT, SIGHUP or SIGQUIT starts a drain: the API processes finish their streams and exit,
then the engine stops, and the exit code is 0. A second signal ends everything at once. The engine
asks for a drain too when another host of its slice was asked to end.

If a process ends unasked, the server ends with exit code 1. Without its engine the server is
useless. An API process that hangs is killed. An API process is not replaced, because a port with
one listener less would lose the connections that hash to it; Kubernetes restarts the pod. Knows
neither models nor protocols.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version as release_of
from pathlib import Path

from server.child_processes import DRAIN_SIGNAL, Child, Command, Task
from server.config.config import Config
from server.config.server_config import ServerConfig
from server.files.temporary_folders import clear_abandoned
from server.logs import set_up_logging
from server.ports import address, reserved_ports
from server.processes.api.access import check_access, warn_of_strangers
from server.processes.api.beats import LOOKS, Beats
from server.processes.link_folder import link_folder
from server.processes.signals import Signals
from server.slice.group_secret import read_group_secret
from server.slice.host_group import find_group
from server.versions.served_model import follow_model_config, prepare_model

ENGINE_COMMAND = (sys.executable, "-P", "-m", "server.processes.engine")
API_COMMAND = (sys.executable, "-P", "-m", "server.processes.api")
# gRPC's core writes to standard error by itself, in its own form, a line for each bad handshake of
# whoever reaches the port, unless this says otherwise when gRPC is imported. An engine is not told:
# JAX reads it too, and would end a host before that host has said why.
QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}

_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = (*_ASKING, DRAIN_SIGNAL, signal.SIGCHLD)
# How long a child process may take to end when it serves nothing any more.
_STOP_SECONDS = 5.0
_FAILED = 1
_IMPATIENT = 130

_log = logging.getLogger(__name__)


def run_supervisor(
    config: Config,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    api_command: Sequence[str] = API_COMMAND,
) -> int:
    """Run the server. Returns the exit code. Must be called on the main thread of the process.

    Raises ModelNotFoundError when the model does not exist, PortError when a port is taken,
    AdminTokenError or WatchedFileError when a file of tokens, keys or certificates is wrong, and
    SliceMismatchError when a slice has several hosts and no source gives this host's index, or no
    usable secret for them.
    """
    set_up_logging(config.server, "main")
    clear_abandoned()
    group = find_group(config.engine, os.environ)
    read_group_secret(config.engine, group)
    if group.is_follower:
        return _run_follower(config, engine_command)
    check_access(config.server)
    engine, model_file = follow_model_config(config.engine)
    model = prepare_model(engine)
    engine = replace(engine, model=model.source, served_model_name=model.name)
    with (
        reserved_ports(config.server) as server,
        link_folder() as link,
        Signals(_watched()) as signals,
    ):
        _log.info(
            "starting",
            extra={
                "release": release_of("antipode-server"),
                "model": model.name,
                "version": model.version or "none",
                "http": address(server.host, server.http_port),
                "grpc": address(server.host, server.grpc_port),
                "api_processes": server.api_processes,
                "tls": bool(server.tls_cert_file),
                **_admin_addresses(server),
            },
        )
        warn_of_strangers(server)
        resolved = Config(engine=engine, server=server)
        supervisor = _Supervisor(resolved, link, signals, model_file)
        return supervisor.run(engine_command, api_command)


def _run_follower(config: Config, engine_command: Sequence[str]) -> int:
    """Run a host that is not the slice's first: only the engine, without ports. The exit code."""
    with link_folder() as link, Signals(_watched()) as signals:
        supervisor = _Supervisor(config, link, signals)
        return supervisor.follow(engine_command)


def _admin_addresses(server: ServerConfig) -> dict[str, str]:
    """The addresses of the admin ports, if they are open."""
    if not server.admin_token_file:
        return {}
    return {
        "admin": address(server.admin_host, server.admin_port),
        "admin_grpc": address(server.admin_host, server.admin_grpc_port),
    }


class _SecondSignalError(Exception):
    """A second signal came: the server must end without waiting for the drain."""


class _Supervisor:
    """The child processes, and the signals that were received."""

    def __init__(
        self, config: Config, link: Path, signals: Signals, model_file: bytes = b""
    ) -> None:
        self._config = config
        self._model_file = model_file
        self._link = link
        self._signals = signals
        self._is_asked = False
        self._children: list[Child] = []
        self._beats: dict[Child, Beats] = {}

    def run(self, engine_command: Sequence[str], api_command: Sequence[str]) -> int:
        try:
            engine = self._start("engine", engine_command)
            apis = [
                self._start_api(f"api-{number}", api_command)
                for number in range(self._config.server.api_processes)
            ]
            return self._serve(engine, apis)
        except _SecondSignalError:
            _log.warning("second signal: ending at once")
            return _IMPATIENT
        finally:
            for child in self._running(self._children):
                child.kill()
            for beats in self._beats.values():
                beats.close()

    def follow(self, engine_command: Sequence[str]) -> int:
        """Run the engine until the leader ends it, also after a signal: the leader has streams."""
        try:
            engine = self._start("engine", engine_command)
            if self._wait_signal_or_end() is None:
                self._end([engine], "drain", self._drain_seconds + _STOP_SECONDS)
            return 0 if engine.exit_code() == 0 else _FAILED
        except _SecondSignalError:
            return _IMPATIENT
        finally:
            for child in self._running(self._children):
                child.kill()

    @property
    def _drain_seconds(self) -> float:
        server = self._config.server
        return server.lame_duck_seconds + server.drain_timeout_seconds + _STOP_SECONDS

    def _serve(self, engine: Child, apis: list[Child]) -> int:
        ended = self._wait_signal_or_end()
        if ended is not None:
            _log.critical("%s ended with %s; stopping", ended.name, _meaning(ended))
            self._end([child for child in self._children if child is not ended], "stop")
            return _FAILED
        timeout = self._config.server.drain_timeout_seconds
        _log.info("draining", extra={"timeout_seconds": timeout})
        engine.send("drain")
        is_clean = self._end(apis, "drain", self._drain_seconds) and engine.exit_code() is None
        self._end([engine], "stop")
        _log.info("stopped")
        return 0 if is_clean else _FAILED

    def _start_api(self, name: str, command: Sequence[str]) -> Child:
        beats = Beats()
        child = self._start(name, command, beats.writing, QUIET_GRPC)
        self._beats[child] = beats
        return child

    def _start(
        self,
        name: str,
        command: Sequence[str],
        beats: int = -1,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        task = Task(
            name=name,
            config=self._config,
            link=str(self._link),
            parent_pid=os.getpid(),
            model_file=self._model_file,
            beats=beats,
        )
        with self._signals.held():
            child = Child(list(command), task, environment)
        self._children.append(child)
        return child

    def _wait_signal_or_end(self) -> Child | None:
        """Return the child that ended, or None when a signal asks for a drain."""
        while len(running := self._running(self._children)) == len(self._children):
            received = self._next_signal(self._config.server.hang_timeout_seconds / LOOKS)
            if received in (*_ASKING, DRAIN_SIGNAL):
                return None
            if received is None:
                self._end_hung()
        return next(child for child in self._children if child not in running)

    def _end_hung(self) -> None:
        """Look at every API process's beats, and kill those that hang."""
        for child, beats in self._beats.items():
            beats.look()
            if beats.is_hung:
                seconds = self._config.server.hang_timeout_seconds
                _log.critical("%s hangs: no beat for %g s; killing it", child.name, seconds)
                child.kill()

    def _end(
        self, children: list[Child], command: Command, patience: float = _STOP_SECONDS
    ) -> bool:
        """Have children end, and kill those that do not. Returns whether all ended well."""
        for child in children:
            child.send(command)
        deadline = time.monotonic() + patience
        while self._running(children) and (left := deadline - time.monotonic()) > 0:
            self._next_signal(left)
        for child in self._running(children):
            _log.error("%s did not end in time; killing it", child.name)
            child.kill()
        return all(child.exit_code() == 0 for child in children)

    def _next_signal(self, timeout: float | None = None) -> int | None:
        """As `Signals.next`; raises _SecondSignalError for a second signal."""
        number = self._signals.next(timeout)
        if number in _ASKING and self._is_asked:
            raise _SecondSignalError
        self._is_asked = self._is_asked or number in _ASKING
        return number

    @staticmethod
    def _running(children: list[Child]) -> list[Child]:
        return [child for child in children if child.exit_code() is None]


def _watched() -> tuple[signal.Signals, ...]:
    """The signals to take. Under nohup, SIGHUP stays ignored."""
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in _WATCHED if not (is_nohup and number is signal.SIGHUP))


def _meaning(child: Child) -> str:
    code = child.exit_code()
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"
