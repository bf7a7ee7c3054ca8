"""The model's versions as a model repository: what is there, loading and freeing by command.

It reads the protocol's ways to name a version and calls the admin object, which decides what is
allowed. Knows neither messages nor JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api.access.audit import audit, refusals_audited
from server.api.open_inference.options import read_json
from server.api.requests.validation import invalid
from server.api.version_admin import VersionAdmin
from server.errors import ApiError, ErrorKind
from server.link.status import VersionState, VersionStatus

# For clients that send an API key as `authorization`.
TOKEN_HEADER = "x-antipode-admin-token"
_STATES: Mapping[VersionState, str] = {
    "START": "LOADING",
    "LOADING": "LOADING",
    "AVAILABLE": "READY",
    "UNLOADING": "UNLOADING",
    "END": "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version. `state` is the protocol's word, `reason` why it is in that state."""

    name: str
    version: str
    state: str
    reason: str


class Repository:
    """`admin` None: the server has no admin token, so every call is refused."""

    def __init__(self, admin: VersionAdmin | None) -> None:
        self._given = admin

    def authorize(self, headers: Mapping[str, str]) -> None:
        """ApiError (unauthenticated) unless `headers`, in lower case, bear the admin token."""
        token = headers.get(TOKEN_HEADER)
        self._admin.authorize(f"Bearer {token}" if token else headers.get("authorization", ""))

    def index(self, *, only_ready: bool) -> list[IndexEntry]:
        """Every version there is or was, the one that is served first."""
        entries = [self._entry(status) for status in self._admin.list()]
        return [each for each in entries if each.state == "READY" or not only_ready]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Have a version read, proved and served."""
        with refusals_audited("load", model=name):
            version = self._version_to_load(name, parameters)
            served = self._admin.status().version
        if version == served:
            audit("load", version=version, outcome="served already")
            return
        if not self._is_available(version):
            await self._admin.load(version)
        await self._admin.promote(version)

    async def unload(self, name: str) -> None:
        """Have a version freed that is not served."""
        with refusals_audited("unload", model=name):
            version = self._version(name)
            if not version:
                raise ApiError(
                    ErrorKind.CONFLICT,
                    "the served version cannot be unloaded; name another:"
                    f" {self._admin.model}@VERSION",
                )
        await self._admin.unload(version)

    def _version_to_load(self, name: str, parameters: Mapping[str, Any]) -> str:
        version = self._version(name) or _configured_version(parameters)
        if not version:
            raise invalid(
                f"name the version to load: {self._admin.model}@VERSION, or config with"
                " version_policy.specific.versions",
                "model_name",
            )
        return version

    @property
    def _admin(self) -> VersionAdmin:
        if self._given is None:
            raise ApiError(
                ErrorKind.UNAUTHENTICATED,
                "this server takes no admin calls; start it with --admin-token-file",
            )
        return self._given

    def _version(self, name: str) -> str:
        """The version in NAME@VERSION; empty without one. ApiError for another model."""
        model, _, version = name.partition("@")
        if model != self._admin.model:
            raise ApiError(
                ErrorKind.NOT_FOUND,
                f"the model {model[:200]!r} does not exist here; this server has"
                f" {self._admin.model!r}",
            )
        return version

    def _is_available(self, version: str) -> bool:
        return any(
            status.version == version and status.state == "AVAILABLE"
            for status in self._admin.list()
        )

    def _entry(self, status: VersionStatus) -> IndexEntry:
        return IndexEntry(self._admin.model, status.version, _STATES[status.state], status.message)


def _configured_version(parameters: Mapping[str, Any]) -> str:
    """The version that a configuration names; empty without a configuration."""
    for name in parameters:
        if name != "config":
            raise invalid(
                f"{name[:64]} is not supported; versions come from their folders", name[:64]
            )
    if "config" not in parameters:
        return ""
    value: Any = read_json(str(parameters["config"]), "config")
    for key in ("version_policy", "specific", "versions"):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list) or len(value) != 1:
        raise invalid("config must name one version in version_policy.specific.versions", "config")
    return str(value[0])
