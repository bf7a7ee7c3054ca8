"""What changes the versions and adapters of an engine process: commands, and the model file.

Each command is answered where it came from, once it is done. What a change takes is the manager's
business; this module knows neither weights nor requests.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

from server.adapters.manager import AdapterManager
from server.link.frames import AdapterCommand, VersionCommand, VersionResult
from server.link.server import LinkServer
from server.processes.engine.pulse import PulseSender
from server.versions.manager import VersionManager
from server.versions.model_file.model_file import ModelFile
from server.versions.model_file.model_file_watcher import ModelFileWatcher, Started
from server.versions.version import VersionError


class VersionCommands:
    """Passes commands on to their manager."""

    def __init__(
        self,
        versions: VersionManager,
        adapters: AdapterManager,
        link: LinkServer,
        pulses: PulseSender,
    ) -> None:
        self._versions, self._adapters = versions, adapters
        self._link, self._pulses = link, pulses

    def receive(self, client: int, command: VersionCommand | AdapterCommand) -> None:
        """Have a command done; its answer follows a pulse that shows what it changed."""

        def answer(done: Future[None]) -> None:
            self._pulses.send()
            self._link.send(client, _result(command, done.exception()))

        if isinstance(command, AdapterCommand):
            future = self._adapters.command(command)
        else:
            future = self._versions.command(command)
        future.add_done_callback(answer)


def follow_model_file(
    path: Path,
    model: str,
    versions: VersionManager,
    adapters: AdapterManager,
    started: Started,
) -> None:
    """Start the thread that has the managers follow the file, as long as it is of `model`."""

    def follow(file: ModelFile) -> None:
        versions.follow(file)
        adapters.follow(file.adapters)

    ModelFileWatcher(
        path, model, follow, versions.reject, started if started.content else None
    ).start()


def _result(command: VersionCommand | AdapterCommand, error: BaseException | None) -> VersionResult:
    kind = None
    if error is not None:
        kind = error.kind if isinstance(error, VersionError) else "internal"
    return VersionResult(
        command_id=command.command_id, error=kind, message=str(error) if error else ""
    )
