"""Which model and which of its versions a request may name, as the engine last reported them.

Knows neither requests nor tokens, and nothing of how a version is loaded.
"""

from __future__ import annotations

import time

from server.api.requests.generation import ModelInfo
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle, ServerState
from server.link.client import EngineClient
from server.link.frames import EngineInfo, VersionStatus


class ModelDirectory:
    """One per API process. Until the engine is ready, its methods raise ApiError (unavailable)."""

    def __init__(self, engine: EngineClient, lifecycle: Lifecycle) -> None:
        self._engine, self._lifecycle = engine, lifecycle
        self._created = int(time.time())

    def served(self) -> ModelInfo:
        """The model in the version that is served."""
        return self.loaded()[0]

    def loaded(self) -> list[ModelInfo]:
        """Every loaded version of the model, the one that is served first."""
        info = self.info()
        return [
            ModelInfo(
                name=info.model,
                version=status.version,
                max_model_len=info.max_model_len,
                created=self._created,
                state=status.state,
                is_serving=status.is_serving,
            )
            for status in self.statuses(info)
            if status.is_serving or status.state == "AVAILABLE"
        ]

    def find(self, name: str) -> ModelInfo:
        """The model of that name (empty: the served one); ApiError (not found) if there is none."""
        _, version = self.resolve(name)
        found = (model for model in self.loaded() if model.version == version)
        return self.served() if version is None else next(found)

    def info(self) -> EngineInfo:
        """What the engine said of itself when it was ready."""
        if self._engine.failure:
            raise ApiError(ErrorKind.UNAVAILABLE, self._engine.failure)
        info = self._engine.info
        if info is None or self._lifecycle.state is ServerState.STARTING:
            detail = self._engine.pulse.detail if self._engine.pulse else ""
            raise ApiError(
                ErrorKind.UNAVAILABLE, "the model is still loading" + (detail and f": {detail}")
            )
        return info

    def statuses(self, info: EngineInfo) -> tuple[VersionStatus, ...]:
        """Every version there is or was, the one that is served first."""
        if (pulse := self._engine.pulse) and pulse.versions:
            return pulse.versions
        only = VersionStatus(
            version=info.version, path="", state="AVAILABLE", is_serving=True, progress=1.0
        )
        return (only,)

    def resolve(self, name: str) -> tuple[EngineInfo, str | None]:
        """The version that `name` asks for by number or label, None where it asks for none."""
        info = self.info()
        model, _, wanted = name.partition("@")
        if name in ("", info.model):
            return info, None
        available = self._available(info)
        for status in available:
            if model == info.model and wanted in (status.version, *status.labels):
                return info, status.version
        known = [f"{info.model}@{status.version}" for status in available if status.version]
        raise ApiError(
            ErrorKind.NOT_FOUND,
            f"the model {name[:200]!r} does not exist here; this server has "
            + ", ".join(map(repr, [info.model, *known])),
            param="model",
            code="model_not_found",
        )

    def check_loaded(self, version: str, info: EngineInfo) -> None:
        """Refuse to go on with a stream whose version this replica does not have."""
        found = [status.version for status in self._available(info)]
        if version not in found:
            raise ApiError(
                ErrorKind.VERSION_GONE,
                f"the stream began on version {version!r} of the model, but this server has "
                f"{' and '.join(map(repr, found))}; another replica may still have it",
                param="resume",
                code="version_gone",
            )

    def _available(self, info: EngineInfo) -> list[VersionStatus]:
        return [status for status in self.statuses(info) if status.state == "AVAILABLE"]
