"""The engine process: the order of its life, from its task to its exit code.

The main thread builds the runner and runs the step loop. The process ends on a command of the main
process, or with a last frame to everyone when the step loop fails: then main restarts nothing and
exits. Nothing here decides about requests or versions, or knows what a pulse says.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Any

from server.adapters.adapter_folder import WantedAdapter, parse_adapters
from server.adapters.manager import AdapterManager, AdapterStore
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.control import Command, receive_task, watch_commands
from server.engine.engine import Engine
from server.engine.grammar_inbox import GrammarInbox
from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.exact_choice import ExactChoice
from server.engine.policy.image_admission import ImageLimits
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.speculation import speculation
from server.engine.policy.step_choice import StepChoice
from server.engine.policy.whole_prompt_choice import WholePromptChoice
from server.engine.requests import OWN_CLIENT
from server.link.frames import (
    AdapterCommand,
    EngineInfo,
    Fatal,
    Step,
    ToEngine,
    VersionCommand,
)
from server.link.server import FLUSH_SECONDS, LinkServer
from server.logs import set_up_logging
from server.metrics.metrics import Metrics
from server.processes.build import RunnerBuilder, ServingRunner, build_model_runner, unexplained
from server.processes.engine_status import Status
from server.processes.follower import FollowerProcess
from server.processes.listener import ServingListener
from server.processes.pulse import PulseSender
from server.processes.version_commands import VersionCommands, follow_model_file
from server.slice.chips import ChipMonitor, monitor_of
from server.slice.host_group import LOSS_SECONDS, Group, find_group
from server.start_clock import StartClock
from server.versions.golden import GoldenClient
from server.versions.manager import VersionManager
from server.versions.model_file import parse_model_config
from server.versions.model_file_watcher import Started
from server.versions.served_model import ServedModel, find_model
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
        engine = self._engine = self._build_engine(runner)
        adapters = self._manage_adapters(engine, built.adapters, wanted)
        self._inbox = GrammarInbox(engine, runner.vocab_size, runner.eos_token_ids)
        manager = self._manage_versions(engine, built.loader, adapters)
        self._commands = VersionCommands(manager, adapters, self._link, self._pulses)
        self.status.serve(engine, manager, adapters, runner, self._config)
        self._pulses.send()
        self._link.announce(_info(self._model, runner, self._config))
        _log_ready(runner, self.status.start, max_num_seqs)
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

    def _build_engine(self, runner: ServingRunner) -> Engine[Any]:
        config = self._config
        versions = ServedVersions(LoadedVersion(self._model.version))
        adapters, images = AdapterSlots(config.max_loras), runner.readable_image
        schedulers = [
            Scheduler(
                BlockManager(
                    runner.kinds,
                    runner.block_size,
                    # What a prefix is computed to depends on what follows it.
                    prefix_caching=config.prefix_caching and not runner.is_bidirectional,
                    chunk=runner.max_num_batched_tokens if config.exact else 0,
                    num_host_blocks=runner.num_host_blocks,
                ),
                choice=_choice_of(runner, config),
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=runner.max_num_batched_tokens,
                max_queue_len=-(-config.max_queue_len // runner.num_ranks),
                max_model_len=runner.max_model_len,
                versions=versions,
                adapters=adapters,
                image_tokens=images.num_tokens if images else 0,
                speculation=speculation(runner.draft_rooms, config.most_drafts),
            )
            for _ in range(runner.num_ranks)
        ]
        return Engine(
            Ranks(schedulers),
            runner,
            self._metrics,
            self._send,
            eos_token_ids=runner.eos_token_ids,
            images=ImageLimits(images, config.max_images_per_prompt),
            overlap=config.overlap,
        )

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
    process = EngineProcess(config, find_model(config), Path(task.link), task.model_file)
    watch_commands(process.command)
    return _end(process.run(build), group)


def _end(code: int, group: Group) -> int:
    """One of several hosts exits here: JAX would wait minutes for the others to end with it."""
    if group.is_several:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    return code


def _choice_of(runner: ServingRunner, config: EngineConfig) -> type[StepChoice]:
    if runner.is_bidirectional:
        return WholePromptChoice
    return ExactChoice if config.exact else StepChoice


def _info(model: ServedModel, runner: ServingRunner, config: EngineConfig) -> EngineInfo:
    return EngineInfo(
        model=model.name,
        version=model.version,
        max_model_len=runner.max_model_len,
        vocab_size=runner.vocab_size,
        eos_token_ids=runner.eos_token_ids,
        max_num_seqs=config.max_num_seqs,
        is_exact=config.exact,
        max_loras=config.max_loras,
        max_images=config.max_images_per_prompt if runner.readable_image is not None else 0,
    )


def _log_ready(runner: ServingRunner, start: StartClock, max_num_seqs: int) -> None:
    _log.info(
        "loaded and warm in %s",
        start.summary(),
        extra={
            "start_seconds": {name: round(s, 2) for name, s in start.seconds().items()},
            "max_model_len": runner.max_model_len,
            "data_ranks": runner.num_ranks,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": runner.max_num_batched_tokens,
            "num_blocks": [kind.num_blocks for kind in runner.kinds],
            "block_size": runner.block_size,
        },
    )


if __name__ == "__main__":
    sys.exit(run_engine_process(build_model_runner))
