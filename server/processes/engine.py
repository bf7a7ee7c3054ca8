"""The engine process: builds the runner, runs the step loop, and says how it is doing.

The main thread loads, compiles and steps; a pulse thread reports several times a second whatever
the main thread does, so that compiling is never mistaken for hanging. It ends when told to, or with
a last frame to everyone when the step loop fails: then main restarts nothing and exits.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from concurrent.futures import Future
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Any

from server.config import EngineConfig
from server.control import Command, ask_for_drain, receive_task, watch_commands
from server.engine.engine import OWN_CLIENT, Engine
from server.engine.policy.block_manager import BlockManager
from server.engine.policy.ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.link.frames import (
    EngineInfo,
    Fatal,
    Pulse,
    Step,
    ToEngine,
    VersionCommand,
    VersionResult,
)
from server.link.server import LinkServer
from server.logs import set_up_logging
from server.metrics.metrics import Metrics
from server.processes.build import RunnerBuilder, ServingRunner, build_model_runner
from server.processes.engine_status import Status
from server.processes.follower import FollowerProcess
from server.slice.chips import ChipMonitor, ChipUse, monitor_of
from server.slice.group import LOSS_SECONDS, Group, GroupError, HostLink, find_group
from server.slice.resolve import Slice
from server.versions.golden import GoldenClient
from server.versions.manager import VersionManager
from server.versions.model_file import ModelConfigWatcher, ModelFile
from server.versions.served_model import ServedModel, find_model
from server.versions.version import SwapSettings, Version, VersionError, VersionLoader

PULSE_SECONDS = 0.1
_FLUSH_SECONDS = 2.0

_log = logging.getLogger(__name__)


class EngineProcess:
    """Everything of this process but the step loop itself."""

    def __init__(self, config: EngineConfig, model: ServedModel, link_path: Path) -> None:
        self._config = config
        self._model = model
        self._link = LinkServer(link_path, self)
        self._metrics = Metrics(
            model=model.name,
            version=model.version,
            release=release_of("antipode-server"),
        )
        self._status = Status(self._metrics)
        self._engine: Engine[Any] | None = None
        self._versions: VersionManager | None = None
        self._golden = GoldenClient(lambda submit: self.receive(OWN_CLIENT, submit))
        self._monitor: ChipMonitor | None = None
        self._ended = threading.Event()
        # Rendering metrics is for one thread at a time, and pulses must not overtake each other.
        self._pulse_lock = threading.Lock()

    def run(self, build: RunnerBuilder) -> int:
        """Serve until told to stop; the process's exit code."""
        self._link.start()
        pulse = threading.Thread(target=self._send_pulses, name="pulse", daemon=True)
        pulse.start()
        try:
            self._serve(build)
        except Exception as error:
            self._fail(error)
            return 1
        finally:
            self._ended.set()
            pulse.join()
            self._link.close(_FLUSH_SECONDS)
        _log.info("stopped")
        return 0

    def receive(self, client: int, frame: ToEngine) -> None:
        """A frame of an API process. None can come before the engine has been announced."""
        if isinstance(frame, VersionCommand):
            self._command_version(client, frame)
        elif self._engine is not None:
            self._engine.receive(client, frame)

    def disconnect(self, client: int) -> None:
        """An API process is gone."""
        if self._engine is not None:
            self._engine.disconnect(client)

    def command(self, command: Command) -> None:
        """What the main process wants. What a drain lets in is the API processes' business."""
        self._status.is_draining = True
        if self._monitor is not None:
            self._monitor.stop()
        if command == "stop":
            if self._engine is None:
                # Nothing is being served, and a compilation cannot be interrupted.
                _log.info("stopped while starting")
                logging.shutdown()
                os._exit(0)
            self._engine.stop()

    def pulse(self) -> Pulse:
        """How the engine is doing, now."""
        return self._status.pulse()

    def _serve(self, build: RunnerBuilder) -> None:
        built = build(self._config, self)
        runner = built.runner
        engine = self._build_engine(runner)
        self._engine = engine
        self._versions = self._manage_versions(engine, built.loader)
        self._status.serve(engine, self._versions, runner, self._config.max_num_seqs)
        self._broadcast_pulse()
        self._link.announce(self._info(runner))
        self._log_ready(runner)
        self._monitor = monitor_of(
            self._status.slice,
            self._config.tpu_metrics_interval_seconds,
            lambda use: self.on_chips(0, use),
        )
        if self._monitor is not None and not self._status.is_draining:
            self._monitor.start()
        engine.run()
        built.close()

    def _build_engine(self, runner: ServingRunner) -> Engine[Any]:
        config = self._config
        versions = ServedVersions(LoadedVersion(self._model.version))
        schedulers = [
            Scheduler(
                BlockManager(runner.kinds, runner.block_size, prefix_caching=config.prefix_caching),
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=runner.max_num_batched_tokens,
                max_queue_len=-(-config.max_queue_len // runner.num_ranks),
                max_model_len=runner.max_model_len,
                versions=versions,
            )
            for _ in range(runner.num_ranks)
        ]
        return Engine(
            schedulers[0] if len(schedulers) == 1 else Ranks(schedulers),
            runner,
            self._metrics,
            self._send,
            eos_token_ids=runner.eos_token_ids,
            overlap=config.overlap,
        )

    def _send(self, client: int, frame: Step) -> None:
        if client == OWN_CLIENT:
            self._golden.receive(frame)
        else:
            self._link.send(client, frame)

    def _manage_versions(self, engine: Engine[Any], loader: VersionLoader[Any]) -> VersionManager:
        """Start the threads that follow commands and the model configuration file."""
        config, model = self._config, self._model
        first = Version(model.version, model.source, "AVAILABLE", progress=1.0)
        manager = VersionManager(
            engine,
            loader,
            self._golden,
            first,
            SwapSettings(
                policy=config.swap_policy,
                watch_window=config.watch_window_seconds,
                swap_timeout=config.swap_timeout_seconds,
            ),
            self._metrics,
            on_change=self._broadcast_pulse,
        )
        manager.start()
        if config.model_config:
            self._follow(Path(config.model_config), manager)
        return manager

    def _follow(self, path: Path, manager: VersionManager) -> None:
        def follow(file: ModelFile) -> None:
            if file.name != self._model.name:
                manager.reject(
                    f"name is {file.name}, but this server was started for {self._model.name}"
                )
            else:
                manager.follow(file)

        ModelConfigWatcher(path, follow, manager.reject).start()

    def _command_version(self, client: int, command: VersionCommand) -> None:
        """Pass a command on; its answer goes back when it is done."""
        if self._versions is None:
            return

        def answer(future: Future[None]) -> None:
            error, kind = future.exception(), None
            if error is not None:
                kind = error.kind if isinstance(error, VersionError) else "internal"
            self._broadcast_pulse()
            self._link.send(
                client,
                VersionResult(
                    command_id=command.command_id, error=kind, message=str(error) if error else ""
                ),
            )

        self._versions.command(command).add_done_callback(answer)

    def _info(self, runner: ServingRunner) -> EngineInfo:
        return EngineInfo(
            model=self._model.name,
            version=self._model.version,
            max_model_len=runner.max_model_len,
            vocab_size=runner.vocab_size,
            eos_token_ids=runner.eos_token_ids,
            max_num_seqs=self._config.max_num_seqs,
        )

    def on_progress(self, detail: str, progress: float) -> None:
        if detail != self._status.detail:
            _log.info("%s", detail)
        self._status.detail, self._status.progress = detail, progress

    def on_compilation(self) -> None:
        self._metrics.on_compilation(is_ready=self._engine is not None)

    def on_slice(self, found: Slice) -> None:
        self._status.slice = found
        _log.info(
            "slice",
            extra={
                "generation": found.generation,
                "topology": found.topology or "none",
                "chips": found.chips,
                "hosts": found.hosts,
                "host_index": found.host_index,
                "claim": found.claim.name or "none",
                "claimed_interfaces": [each.name for each in found.claimed_interfaces],
            },
        )

    def on_links(self, links: tuple[HostLink, ...]) -> None:
        self._status.host_links = links
        for link in links:
            _log.info(
                "host %d is here",
                link.index,
                extra={"interface": link.interface or "of the pod", "address": link.address},
            )

    def on_chips(self, index: int, use: ChipUse) -> None:
        self._status.chips[index] = use

    def on_leaving(self, index: int) -> None:
        _log.info("host %d was told to end: all hosts drain", index)
        ask_for_drain()

    def on_lost(self, reason: str) -> None:
        """The main thread may be inside a collective that never ends: the process goes at once."""
        _log.critical("%s; the server ends on all hosts", reason)
        self._link.broadcast(Fatal(message=f"its slice is not whole any more: {reason}"))
        self._link.close(_FLUSH_SECONDS)
        logging.shutdown()
        os._exit(1)

    def _send_pulses(self) -> None:
        while not self._ended.wait(PULSE_SECONDS):
            self._broadcast_pulse()

    def _broadcast_pulse(self) -> None:
        with self._pulse_lock:
            self._link.broadcast(self.pulse())

    def _log_ready(self, runner: ServingRunner) -> None:
        _log.info(
            "loaded and warm in %.1f s",
            self._status.load_seconds,
            extra={
                "max_model_len": runner.max_model_len,
                "data_ranks": runner.num_ranks,
                "max_num_seqs": self._config.max_num_seqs,
                "max_num_batched_tokens": runner.max_num_batched_tokens,
                "num_blocks": [kind.num_blocks for kind in runner.kinds],
                "block_size": runner.block_size,
            },
        )

    def _fail(self, error: Exception) -> None:
        """Say once, to everyone, why this process ends."""
        if self._status.host_links:
            # A lost host first shows as a failed collective: let who watches the hosts speak.
            time.sleep(LOSS_SECONDS)
        if self._engine is not None:
            _log.critical("the step loop failed", exc_info=error)
            self._link.broadcast(Fatal(message="its step loop failed; the log says why"))
            return
        # A checkpoint that cannot be served explains itself in a sentence; all else is a bug.
        is_explained = isinstance(error, ValueError | OSError | GroupError)
        _log.critical("cannot start: %s", error, exc_info=None if is_explained else error)
        self._link.broadcast(Fatal(message=f"it could not start: {error}"))


def run_engine_process(build: RunnerBuilder) -> int:
    """The whole life of the process: take the task, serve or follow, and give the exit code."""
    task = receive_task()
    set_up_logging(task.config.server, task.name)
    config = task.config.engine
    group = find_group(config, os.environ)
    if group.is_follower:
        follower = FollowerProcess(config, group)
        watch_commands(follower.command)
        return _end(follower.run(), group)
    process = EngineProcess(config, find_model(config), Path(task.link))
    watch_commands(process.command)
    return _end(process.run(build), group)


def _end(code: int, group: Group) -> int:
    """One of several hosts exits here: JAX would wait minutes for the others to end with it."""
    if group.is_several:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run_engine_process(build_model_runner))
