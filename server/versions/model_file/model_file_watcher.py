"""Watches the model configuration file, on a thread of its own, by content.

In a cluster the file is a mounted ConfigMap, which is replaced by swapping a symlink. The file that
the server was started with is followed first. Knows neither versions' weights nor what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from server.threads import guarded
from server.versions.model_file.model_file import (
    ModelFile,
    ModelFileError,
    parse_model_config,
    read_model_file,
)

_POLL_SECONDS = 0.5
# A look that takes longer waits for a mount that does not answer.
_LONGEST_LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Started:
    """What the server was started with: the file's content, and the version it asked for."""

    content: bytes
    version: str


class ModelFileWatcher:
    """Reports every new content that has stood still for one look, and what is wrong with the file.

    Where the file asks for the latest version, also reports when that has become another. A file is
    reported with the version that it asks for; it must name `model`. An empty error says that
    nothing is wrong any more. `started` is done already: only its labels and its policy are left,
    so `start` reports it once, with the version that is served.
    """

    def __init__(
        self,
        path: Path,
        model: str,
        on_file: Callable[[ModelFile], object],
        on_error: Callable[[str], object],
        started: Started | None = None,
    ) -> None:
        self._path, self._model = path, model
        self._on_file, self._on_error = on_file, on_error
        self._started = started
        self._seen: bytes | None = None
        self._done: bytes | None = None
        self._latest: ModelFile | None = None
        self._latest_version = ""
        # What is wrong with the content that is done, and what was reported last.
        self._wrong = self._reported = ""
        self._look_began: float | None = None
        self._thread = guarded(self._run, "model-config", on_fault=self._on_fault)
        self._clock = guarded(self._watch_looks, "model-config-clock")

    def start(self) -> None:
        """Report the file that the server was started with; then look, on a thread of its own."""
        if self._started is not None:
            self._begin(self._started)
        self._thread.start()
        self._clock.start()

    def look(self) -> None:
        """Read the file once more."""
        try:
            content = read_model_file(self._path)
            self._look_at(content)
        except ModelFileError as error:
            self._report(str(error))
        else:
            if content == self._done:
                self._report(self._wrong)

    def _begin(self, started: Started) -> None:
        """Commands come after this, so what they ask for is not undone by a file that is old."""
        file = parse_model_config(started.content)
        version = file.version or started.version
        if not version:
            return  # What is served has no number: the first look finds the latest one.
        self._seen = self._done = started.content
        if file.version is None:
            self._latest, self._latest_version = file, version
        self._on_file(replace(file, version=version))

    def _look_at(self, content: bytes) -> None:
        if content == self._seen and content != self._done:
            # It is done even if that fails: the same content would fail again.
            self._done, self._latest = content, None
            self._wrong = "the watcher failed on it; the log says why"
            self._wrong = self._take(content)
        self._seen = content
        if self._latest is not None:
            self._look_for_latest(self._latest)

    def _take(self, content: bytes) -> str:
        """Follow new content. What is wrong with it, empty if nothing is."""
        try:
            file = parse_model_config(content)
        except ModelFileError as error:
            return str(error)
        if file.name != self._model:
            return f"name is {file.name}, but this server was started for {self._model}"
        if file.version is None:
            self._latest, self._latest_version = file, ""
        else:
            self._on_file(file)
        return ""

    def _look_for_latest(self, file: ModelFile) -> None:
        version = file.wanted_version()
        if version != self._latest_version:
            self._latest_version = version
            self._on_file(replace(file, version=version))

    def _report(self, reason: str) -> None:
        if reason != self._reported:
            self._on_error(reason)
        self._reported = reason

    def _on_fault(self, error: Exception) -> None:
        self._report(f"its watcher failed: {error!r}; the log says more")

    def check_look(self) -> None:
        """Report a look that has not come back; the look itself reports once it does."""
        began = self._look_began
        if began is not None and time.monotonic() - began > _LONGEST_LOOK_SECONDS:
            self._report(
                f"{self._path}, or the folder of the model that it names, has not answered for "
                f"{_LONGEST_LOOK_SECONDS:g} s; check their mounts"
            )

    def _run(self) -> None:
        while True:
            self._look_began = time.monotonic()
            self.look()
            self._look_began = None
            time.sleep(_POLL_SECONDS)

    def _watch_looks(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            self.check_look()
