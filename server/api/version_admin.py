"""What operators may do with versions, without a transport: both admin protocols call this object.

It holds callers to the token, turns a version's number into its path, and logs an audit line for
each change and each refused caller; the rest is the engine's.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import cast, get_args

from server.api.access.audit import audit, audited, refusals_audited
from server.api.access.call import current_call
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import invalid
from server.errors import ApiError, ErrorKind
from server.files.admin_token_file import AdminTokenError, read_admin_token
from server.link.client import EngineClient
from server.link.frames import SwapPolicy, VersionAction
from server.link.status import VersionStatus
from server.versions.model_file.model_file import is_version

_SCHEME = "bearer "


class VersionAdmin:
    """Belongs to the event loop of its engine client. The token is read anew for every call."""

    def __init__(self, models: ModelDirectory, engine: EngineClient, token_file: Path) -> None:
        self._models, self._engine, self._token_file = models, engine, token_file

    @property
    def model(self) -> str:
        return self._models.served().name

    @property
    def config_error(self) -> str:
        """Why the model configuration file is not followed; empty if it is, or there is none."""
        return self._engine.pulse.config_error if self._engine.pulse else ""

    def authorize(self, header: str) -> None:
        """ApiError (unauthenticated) unless `header` is `Bearer TOKEN`."""
        try:
            token = read_admin_token(self._token_file)
        except AdminTokenError as error:
            raise ApiError(ErrorKind.UNAUTHENTICATED, str(error)) from error
        given = header[len(_SCHEME) :] if header.lower().startswith(_SCHEME) else ""
        if not hmac.compare_digest(given.strip().encode(), token.encode()):
            audit("call", outcome="unauthenticated")
            raise ApiError(
                ErrorKind.UNAUTHENTICATED, "give the admin token: authorization: Bearer TOKEN"
            )
        current_call().has_admin_token = True

    def list(self) -> tuple[VersionStatus, ...]:
        """Every version there is or was, the one that is served first."""
        return self._models.statuses(self._models.info())

    def status(self, version: str = "") -> VersionStatus:
        """What is known of a version; empty is the one that is served."""
        statuses = self.list()
        if not version:
            return statuses[0]
        for status in statuses:
            if status.version == version:
                return status
        raise ApiError(ErrorKind.NOT_FOUND, f"version {version} was never here")

    async def load(self, version: str, path: str = "", policy: str | None = None) -> VersionStatus:
        """Read and prove a version; an empty path is beside the one that is served."""
        with refusals_audited("load", version=version, path=path):
            self._check(version)
            if policy is not None and policy not in get_args(SwapPolicy):
                raise invalid("policy must be availability or resource", "policy")
            path = path or self._path_beside_the_served(version)
        with audited("load", version=version, path=path):
            await self._engine.change_version(
                "load", version, path=path, policy=cast(SwapPolicy | None, policy)
            )
        return self.status(version)

    async def promote(self, version: str) -> VersionStatus:
        """Serve a loaded version."""
        await self._change("promote", version)
        return self.status()

    async def roll_back(self) -> VersionStatus:
        """Serve what was served before."""
        await self._change("rollback")
        return self.status()

    async def unload(self, version: str) -> VersionStatus:
        """Free a version that is not served."""
        await self._change("unload", version)
        return self.status(version)

    async def _change(self, action: VersionAction, version: str = "") -> None:
        """Returns when the change is done. ApiError (unavailable) before the server is ready."""
        with audited(action, version=version):
            if action != "rollback":
                self._check(version)
            self._models.info()
            await self._engine.change_version(action, version)

    def _path_beside_the_served(self, version: str) -> str:
        served = self.status().path
        if not served:
            raise invalid("give the path of the version", "path")
        return f"{served.rstrip('/').rpartition('/')[0]}/{version}"

    @staticmethod
    def _check(version: str) -> None:
        if not is_version(version):
            raise invalid("version must be a whole number, the name of its folder", "version")
