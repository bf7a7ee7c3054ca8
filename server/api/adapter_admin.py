"""Loading and unloading adapters, without a transport: the admin port and vLLM's routes call this.

Each change leaves an audit line. Who may call is the caller's business; what can be loaded is the
engine's.
"""

from __future__ import annotations

from server.api.access.audit import audited
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import invalid
from server.errors import ApiError, ErrorKind
from server.link.client import EngineClient
from server.link.status import AdapterStatus


class AdapterAdmin:
    """Belongs to the event loop of its engine client."""

    def __init__(self, models: ModelDirectory, engine: EngineClient) -> None:
        self._models, self._engine = models, engine

    def list(self) -> tuple[AdapterStatus, ...]:
        """Every adapter that is here. ApiError (unavailable) before the server is ready."""
        self._models.info()
        return self._models.adapter_statuses()

    def find(self, name: str) -> AdapterStatus | None:
        """The adapter that requests may name; None if there is none."""
        found = (each for each in self.list() if each.name == name and each.state == "AVAILABLE")
        return next(found, None)

    async def load(self, name: str, version: str | None = None, path: str = "") -> AdapterStatus:
        """Read an adapter and let requests name it, in place of a loading of the same name.

        Without a path it lies next to the model's versions; without a version it is the newest.
        """
        with audited("load adapter", adapter=name, version=version or "", path=path):
            if not self._models.info().max_loras:
                sentence = "this server serves no adapters: start it with --max-loras"
                raise invalid(sentence, "lora_name")
            await self._engine.change_adapter("load", name, version=version, path=path)
        if (found := self.find(name)) is None:
            raise ApiError(ErrorKind.CONFLICT, f"adapter {name} was unloaded at the same time")
        return found

    async def unload(self, name: str) -> None:
        """No request may name it any more; requests that already run go on to their end."""
        with audited("unload adapter", adapter=name):
            self._models.info()
            await self._engine.change_adapter("unload", name)
