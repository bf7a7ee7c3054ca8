"""Which versions and adapters of the model a request may name, as the engine last reported.

Knows neither requests nor tokens, and nothing of how a version is loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from server.api.requests.generation import ModelInfo
from server.api.requests.model_names import parse_model_name, parse_stream_version
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle, ServerState
from server.link.client import EngineClient
from server.link.frames import EngineInfo
from server.link.status import AdapterStatus, VersionStatus


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What a request's model is: a version, None for the one that is served, and an adapter.

    `adapter` None is the model itself; `adapter_version` None is whichever is loaded.
    """

    info: EngineInfo
    version: str | None = None
    adapter: str | None = None
    adapter_version: str | None = None


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

    def adapters(self) -> list[ModelInfo]:
        """Every adapter that requests may name."""
        served = self.served()
        return [
            replace(
                served,
                adapter=status.name,
                adapter_version=status.version,
                state=status.state,
            )
            for status in self.adapter_statuses()
            if status.state == "AVAILABLE"
        ]

    def find(self, name: str) -> ModelInfo:
        """The model of that name (empty: the served one); ApiError (not found) if there is none."""
        named = self.resolve(name)
        if named.adapter is not None:
            return next(each for each in self.adapters() if each.adapter == named.adapter)
        found = (model for model in self.loaded() if model.version == named.version)
        return self.served() if named.version is None else next(found)

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

    def adapter_statuses(self) -> tuple[AdapterStatus, ...]:
        """Every adapter that is here."""
        return self._engine.pulse.adapters if self._engine.pulse else ()

    def resolve(self, name: str) -> NamedModel:
        """The version and adapter that `name` asks for; ApiError (not found) if one is not here."""
        info = self.info()
        wanted = parse_model_name(name, info.model)
        version = None
        if wanted.version is not None:
            version = self._version(wanted.version, info)
            if version is None:
                raise self._not_found(name, info)
        if wanted.adapter is not None and not self._has(wanted.adapter, wanted.adapter_version):
            raise self._not_found(name, info)
        return NamedModel(info, version, wanted.adapter, wanted.adapter_version)

    def _version(self, wanted: str, info: EngineInfo) -> str | None:
        """The available version of this number or label."""
        found = (s.version for s in self._available(info) if wanted in (s.version, *s.labels))
        return next(found, None)

    def _has(self, adapter: str, version: str | None) -> bool:
        """Whether requests may name the adapter, in this version unless that is None."""
        return any(
            each.adapter == adapter and version in (None, each.adapter_version)
            for each in self.adapters()
        )

    def _not_found(self, name: str, info: EngineInfo) -> ApiError:
        available = self._available(info)
        known = [f"{info.model}@{status.version}" for status in available if status.version]
        adapters = [each.id for each in self.adapters()]
        return ApiError(
            ErrorKind.NOT_FOUND,
            f"the model {name[:200]!r} does not exist here; this server has "
            + ", ".join(map(repr, [info.model, *known, *adapters])),
            param="model",
            code="model_not_found",
        )

    def resumed(self, reported: str, named: NamedModel) -> NamedModel:
        """What a stream goes on with that began as `reported`; the request names `named`.

        ApiError where this replica has not that version, or not that version of the adapter.
        """
        wanted, info = parse_stream_version(reported), named.info
        found = [status.version for status in self._available(info)]
        if wanted.adapter != named.adapter:
            raise ApiError(
                ErrorKind.INVALID_REQUEST,
                f"the stream began with adapter {wanted.adapter or 'none'}, but model names"
                f" {named.adapter or 'none'}; give the model of the first request",
                param="resume",
            )
        if wanted.version not in found:
            raise _gone(f"version {wanted.version!r} of the model", found)
        if wanted.adapter is not None and not self._has(wanted.adapter, wanted.adapter_version):
            here = [a.adapter_version for a in self.adapters() if a.adapter == wanted.adapter]
            raise _gone(f"version {wanted.adapter_version!r} of adapter {wanted.adapter}", here)
        return replace(named, version=wanted.version, adapter_version=wanted.adapter_version)

    def _available(self, info: EngineInfo) -> list[VersionStatus]:
        return [status for status in self.statuses(info) if status.state == "AVAILABLE"]


def _gone(began: str, found: list[str]) -> ApiError:
    return ApiError(
        ErrorKind.VERSION_GONE,
        f"the stream began on {began}, but this server has "
        f"{' and '.join(map(repr, found))}; another replica may still have it",
        param="resume",
        code="version_gone",
    )
