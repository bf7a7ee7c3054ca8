"""Loads and unloads adapters, one after another, on a thread of its own beside serving.

An adapter is read into host memory; the step loop then opens it to requests between two steps, and
gives it a slot when a request runs with it. The manager keeps a record of each that is here. It
knows neither slots nor requests.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import msgspec

from models.checkpoint.files import Files
from models.checkpoint.location import files_of
from server.adapters.adapter_folder import AdapterPlace, WantedAdapter, find_adapter
from server.engine.engine import Engine
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.link.frames import AdapterCommand
from server.link.status import AdapterStatus, VersionState
from server.threads import count_fault, guarded
from server.versions.model_file.model_file import LATEST
from server.versions.served_model import ServedModel
from server.versions.version import VersionError

_log = logging.getLogger(__name__)


class ReadAdapter(Protocol):
    """An adapter in host memory."""

    @property
    def rank(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def is_published(self) -> bool: ...


class AdapterStore[Read: ReadAdapter](Protocol):
    """Holds adapters in host memory, from which the step loop puts them on the device."""

    def read(self, files: Files) -> Read:
        """Read an adapter. ValueError or OSError with the reason."""

    def keep(self, loaded: LoadedAdapter, adapter: Read) -> None:
        """From now on it can be placed."""

    def drop(self, loaded: LoadedAdapter) -> None:
        """Free its memory."""


@dataclass(slots=True)
class _Task:
    run: Callable[[], None]
    future: Future[None] = field(default_factory=Future)


class AdapterManager:
    """Every adapter that is here. Without a store the server has no slots, and loads none."""

    def __init__(
        self,
        engine: Engine[Any],
        store: AdapterStore[Any] | None,
        model: ServedModel,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine, self._store, self._model = engine, store, model
        self._on_change = on_change
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._statuses: dict[LoadedAdapter, AdapterStatus] = {}
        # What the model configuration file asked for last, and why it could not be followed.
        self._followed: dict[str, str] = {}
        self.config_error = ""
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread = guarded(self._run, "adapters")

    def load_first(self, wanted: Sequence[WantedAdapter]) -> None:
        """Load what the server starts with, before the step loop runs. ValueError or OSError."""
        for each in wanted:
            self._engine.adapters.open(self._read(each))
        self._note_states()

    def start(self) -> None:
        """Take commands. The step loop must run, or be about to."""
        self._thread.start()

    # From any thread.

    def statuses(self) -> tuple[AdapterStatus, ...]:
        """The adapters that are here, in the order in which they came."""
        with self._lock:
            return tuple(self._statuses.values())

    def command(self, command: AdapterCommand) -> Future[None]:
        """Do what a command says; VersionError if that cannot be."""
        wanted = WantedAdapter(command.name, command.version, command.path)
        if command.action == "load":
            return self._put(lambda: self._load(wanted))
        return self._put(lambda: self._unload(command.name))

    def follow(self, adapters: dict[str, str]) -> Future[None]:
        """Have what the model configuration file names, by name and version or `latest`."""
        return self._put(lambda: self._follow(adapters))

    def on_gone(self, adapter: LoadedAdapter) -> None:
        """Nobody can use a loading any more; called by the step loop."""
        if self._store is not None:
            self._store.drop(adapter)
        with self._lock:
            self._statuses.pop(adapter, None)

    def _put(self, run: Callable[[], None]) -> Future[None]:
        task = _Task(run)
        self._tasks.put(task)
        return task.future

    # The manager's own thread.

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task.run()
            except VersionError as error:
                _log.error("%s", error)
                task.future.set_exception(error)
            except Exception as error:
                count_fault("adapters")
                _log.exception("a change of adapters failed")
                task.future.set_exception(VersionError(f"{error!r}; the log says more", "internal"))
            else:
                task.future.set_result(None)
            self._on_change()

    def _load(self, wanted: WantedAdapter) -> None:
        try:
            loaded = self._read(wanted)
        except (ValueError, OSError) as error:
            raise VersionError(
                f"adapter {wanted.name[:200]} is not loaded: {error}", "invalid_request"
            ) from error
        self._engine.call(lambda changes: changes.adapters.open(loaded)).result()
        self._note_states()

    def _unload(self, name: str) -> None:
        if not self._close(name):
            raise VersionError(f"adapter {name[:200]} is not loaded here", "not_found")
        self._note_states()

    def _close(self, name: str) -> bool:
        """No request may name it any more; whether one could."""
        return self._engine.call(lambda changes: changes.adapters.close(name)).result()

    def _follow(self, adapters: dict[str, str]) -> None:
        """Load what the file names anew, and unload what it named before and names no more.

        Adapters that commands loaded stay. One that fails keeps no other from being loaded.
        """
        before, self._followed = self._followed, dict(adapters)
        errors = []
        for name in before.keys() - adapters.keys():
            self._close(name)
        for name, version in adapters.items():
            if before.get(name) == version:
                continue
            try:
                self._load(WantedAdapter(name, None if version == LATEST else version))
            except VersionError as error:
                _log.error("%s", error)
                errors.append(str(error))
                del self._followed[name]
        self.config_error = "; ".join(errors)
        self._note_states()

    def _note_states(self) -> None:
        """Requests may name those that are open; the others are here while requests run."""
        opened = self._engine.adapters.opened
        with self._lock:
            for adapter, status in self._statuses.items():
                state: VersionState = "AVAILABLE" if adapter in opened else "UNLOADING"
                self._statuses[adapter] = msgspec.structs.replace(status, state=state)

    def _read(self, wanted: WantedAdapter) -> LoadedAdapter:
        """Read an adapter into host memory, as a new loading."""
        if self._store is None:
            raise ValueError("this server has no room for adapters: start it with --max-loras")
        place = find_adapter(wanted, self._model)
        loaded = LoadedAdapter(place.name, place.version, next(self._numbers))
        adapter = self._store.read(files_of(place.path))
        if not adapter.is_published:
            _log.warning("%s has no antipode.json, so its files are not verified", place.path)
        self._store.keep(loaded, adapter)
        with self._lock:
            self._statuses[loaded] = _status(place, adapter)
        _log.info("adapter %s is loaded", place.name, extra={"version": place.version})
        return loaded


def _status(place: AdapterPlace, adapter: ReadAdapter) -> AdapterStatus:
    return AdapterStatus(
        name=place.name,
        version=place.version,
        path=place.path,
        state="LOADING",
        rank=adapter.rank,
        num_bytes=adapter.num_bytes,
    )
