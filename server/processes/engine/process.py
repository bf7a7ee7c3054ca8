"""The engine process: the order of its life, from its task to its exit code.

The main thread builds the runner and runs the step loop. The process ends on a command of the main
process, or with a last frame to everyone when the step loop fails: then main restarts nothing and
exits. Nothing here decides about requests or versions, or knows what a pulse says.
"""

from __future__ import annotations

import logging
import os
import time
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Any

from server.adapters.adapter_folder import WantedAdapter, parse_adapters
from server.adapters.manager import AdapterManager, AdapterStore
from server.child_processes import Command
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.engine import Engine
from server.engine.grammar_inbox import GrammarInbox
from server.engine.requests import OWN_CLIENT
from server.link.frames import AdapterCommand, Fatal, Step, ToEngine, VersionCommand
from server.link.server import FLUSH_SECONDS, LinkServer
from server.metrics.metrics import Metrics
from server.processes.engine.assembly import build_engine, engine_info, log_ready
from server.processes.engine.build import RunnerBuilder, unexplained
from server.processes.engine.pulse import PulseSender
from server.processes.engine.start_events import ServingListener
from server.processes.engine.status import Status
from server.processes.engine.version_commands import VersionCommands, follow_model_file
from server.slice.chips import ChipMonitor, monitor_of
from server.slice.host_group import LOSS_SECONDS
from server.versions.golden import GoldenClient
from server.versions.manager import VersionManager
from server.versions.model_file.model_file import parse_model_config
from server.versions.model_file.model_file_watcher import Started
from server.versions.served_model import ServedModel
from server.versions.version import SwapSettings, Version, VersionLoader

_log = logging.getLogger(__name__)


class EngineProcess:
    """Puts the parts of a serving process together, and hands frames from one to another.

    `status` is how it is doing.
    """

    def __init__(
        self, config: EngineConfig, model: ServedModel, link_path: Path, model_file: bytes = b""
    ) -> None:
        self._config = config
        self._started = Started(model_file, model.version)
        self._model = model
        self._link = LinkServer(link_path, self)
        self._metrics = Metrics(
            model=model.name,
            version=model.version,
            release=release_of("antipode-server"),
            num_speculative_tokens=config.most_drafts,
        )
        self.status = Status(self._metrics)
        self._pulses = PulseSender(self.status, self._link)
        self._listener = ServingListener(self.status, self._metrics, self._link)
        self._engine: Engine[Any] | None = None
        self._inbox: GrammarInbox | None = None
        self._commands: VersionCommands | None = None
        self._golden = GoldenClient(lambda submit: self.receive(OWN_CLIENT, submit))
        self._monitor: ChipMonitor | None = None

    def run(self, build: RunnerBuilder) -> int:
        """Serve until told to stop; the process's exit code."""
        self._link.start()
        self._pulses.start()
        try:
            self._serve(build)
        except Exception as error:
            self._fail(error)
            return 1
        finally:
            self._pulses.stop()
            self._link.close(FLUSH_SECONDS)
        _log.info("stopped")
        return 0

    def receive(self, client: int, frame: ToEngine) -> None:
        """A frame of an API process. None can come before the engine has been announced."""
        if isinstance(frame, VersionCommand | AdapterCommand):
            if self._commands is not None:
                self._commands.receive(client, frame)
        elif self._inbox is not None:
            self._inbox.receive(client, frame)

    def disconnect(self, client: int) -> None:
        """An API process is gone."""
        if self._inbox is not None:
            self._inbox.disconnect(client)

    def command(self, command: Command) -> None:
        """What the main process wants. What a drain lets in is the API processes' business."""
        self.status.is_draining = True
        if self._monitor is not None:
            self._monitor.stop()
        if command == "stop":
            if self._engine is None:
                # Nothing is being served, and a compilation cannot be interrupted.
                _log.info("stopped while starting")
                logging.shutdown()
                os._exit(0)
            self._engine.stop()

    def _serve(self, build: RunnerBuilder) -> None:
        # Before minutes of loading, not after them.
        wanted = parse_adapters(self._config.lora_adapters)
        if wanted and not self._config.max_loras:
            raise ConfigError("lora_adapters names adapters, but max_loras is 0: raise it")
        built = build(self._config, self._listener)
        runner, max_num_seqs = built.runner, self._config.max_num_seqs
        engine = self._engine = build_engine(
            *(self._config, self._model, runner), observer=self._metrics, send=self._send
        )
        adapters = self._manage_adapters(engine, built.adapters, wanted)
        self._inbox = GrammarInbox(engine, runner.vocab_size, runner.eos_token_ids)
        manager = self._manage_versions(engine, built.loader, adapters)
        self._commands = VersionCommands(manager, adapters, self._link, self._pulses)
        self.status.serve(engine, manager, adapters, runner, self._config)
        self._pulses.send()
        self._link.announce(engine_info(self._model, runner, self._config))
        log_ready(runner, self.status.start, max_num_seqs)
        self._monitor = monitor_of(
            self.status.slice,
            self._config.tpu_metrics_interval_seconds,
            lambda use: self._listener.on_chips(0, use),
        )
        if self._monitor is not None and not self.status.is_draining:
            self._monitor.start()
        engine.run()
        self._inbox.close()
        built.close()

    def _send(self, client: int, frame: Step) -> None:
        if client == OWN_CLIENT:
            self._golden.receive(frame)
        else:
            self._link.send(client, frame)

    def _manage_versions(
        self, engine: Engine[Any], loader: VersionLoader[Any], adapters: AdapterManager
    ) -> VersionManager:
        """Start the threads that follow commands and the model configuration file."""
        config, model = self._config, self._model
        first = Version(
            model.version, model.source, "AVAILABLE", progress=1.0, asked=self._asked_path()
        )
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
            self._metrics.swaps,
            on_change=self._pulses.send,
        )
        manager.start()
        if config.model_config:
            path = Path(config.model_config)
            follow_model_file(path, model.name, manager, adapters, self._started)
        return manager

    def _manage_adapters(
        self, engine: Engine[Any], store: AdapterStore[Any] | None, wanted: list[WantedAdapter]
    ) -> AdapterManager:
        """Load the adapters that the server starts with, and start the thread that changes them."""
        manager = AdapterManager(engine, store, self._model, self._pulses.send)
        engine.adapters.on_gone = manager.on_gone
        manager.load_first(wanted)
        manager.start()
        return manager

    def _asked_path(self) -> str:
        """Where the model configuration file says that the version lies, as it spells it."""
        if not self._started.content:
            return ""
        return parse_model_config(self._started.content).path_of(self._started.version)

    def _fail(self, error: Exception) -> None:
        """Say once, to everyone, why this process ends."""
        if self.status.host_links:
            # A lost host first shows as a failed collective: let who watches the hosts speak.
            time.sleep(LOSS_SECONDS)
        if self._engine is not None:
            _log.critical("the step loop failed", exc_info=error)
            self._link.broadcast(Fatal(message="its step loop failed; the log says why"))
            return
        _log.critical("cannot start: %s", error, exc_info=unexplained(error))
        self._link.broadcast(Fatal(message=f"it could not start: {error}"))
