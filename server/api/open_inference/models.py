"""The model's versions and what they have done, by the protocol's names: a model and a version.

Knows neither messages nor JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api.load_reports import LoadReports
from server.api.requests.generation import ModelInfo
from server.api.requests.model_directory import ModelDirectory
from server.errors import ApiError, ErrorKind
from server.link.status import Totals

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long that took, all together."""

    count: int
    seconds: float = 0.0

    @property
    def nanoseconds(self) -> int:
        return int(self.seconds * _NANOSECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts of all requests since the server's start. `last_inference` is in ms since the epoch.

    `compute` is of the engine's steps. `cache_hit` and `cache_miss` count prompt tokens.
    """

    name: str
    version: str
    last_inference: int
    num_steps: int
    success: Duration
    fail: Duration
    queue: Duration
    compute: Duration
    cache_hit: Duration
    cache_miss: Duration


class Models:
    """One per API process."""

    def __init__(self, directory: ModelDirectory, loads: LoadReports) -> None:
        self._directory, self._loads = directory, loads

    def find(self, name: str, version: str) -> ModelInfo:
        """The model; ApiError (not found) for another name, or a version that is not loaded."""
        return self._directory.find(f"{name}@{version}" if version else name)

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a request for it would find it; ApiError for a name that never will."""
        try:
            return self.find(name, version).state == "AVAILABLE"
        except ApiError as error:
            if error.kind is ErrorKind.UNAVAILABLE or (version and self._is_known(name)):
                return False
            raise

    def check_was_here(self, name: str, version: str) -> None:
        """ApiError for a version that was never here, or while the engine starts."""
        statuses = self._directory.statuses(self._directory.info())
        if all(status.version != version for status in statuses):
            self.find(name, version)

    def versions(self) -> list[str]:
        """The loaded versions, the one that is served first. A version may have no number."""
        return [model.version for model in self._directory.loaded()]

    def statistics(self, name: str, version: str) -> Statistics:
        """What the server has done. The engine does not count by version."""
        model = self.find(name, version)
        load = self._loads.load()
        totals = load.totals if load else Totals()
        return Statistics(
            name=model.name,
            version=model.version,
            last_inference=int(totals.last_end * 1000),
            num_steps=totals.num_steps,
            success=Duration(totals.num_succeeded, totals.succeeded_seconds),
            fail=Duration(totals.num_failed, totals.failed_seconds),
            queue=Duration(totals.num_admitted, totals.queue_seconds),
            compute=Duration(totals.num_steps, totals.busy_seconds),
            cache_hit=Duration(totals.num_cached_tokens),
            cache_miss=Duration(totals.num_prompt_tokens - totals.num_cached_tokens),
        )

    def _is_known(self, name: str) -> bool:
        return name == self._directory.served().name
