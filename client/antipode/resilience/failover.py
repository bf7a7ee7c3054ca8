"""Several servers to choose from: which one is called, and which one after a failure.

Knows a transport only by what it can do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from antipode.resilience.usability import Usability
from antipode.types import EmbeddingRequest, Embeddings, Event, Request, Resume


class Transport(Protocol):
    """The connection to one server."""

    def call(
        self, request: Request, resume: Resume | None, timeout: float | None
    ) -> AsyncGenerator[Event]:
        """One try: its events, then the end or an AntipodeError. Closing it ends the call."""

    async def embed(self, request: EmbeddingRequest, timeout: float | None) -> Embeddings:
        """One try at a batch of embeddings."""

    async def aclose(self) -> None: ...


class Transports:
    """The servers to choose from: after a failure, the next one is called."""

    def __init__(self, transports: list[Transport]) -> None:
        self._transports = transports
        self._usability = Usability()
        self._turn = 0

    @property
    def current(self) -> Transport:
        """The one to call now. ClosedClientError if none may be called any more."""
        self._usability.check()
        return self._next

    def pass_turn(self, failed: Transport) -> None:
        """If several calls fail on one server, only the first moves on to the next server."""
        if failed is self._next:
            self._turn += 1

    @property
    def _next(self) -> Transport:
        return self._transports[self._turn % len(self._transports)]

    async def embed(self, request: EmbeddingRequest, timeout: float | None) -> Embeddings:
        """One try at the server whose turn it is."""
        transport = self.current
        try:
            return await transport.embed(request, timeout)
        except BaseException:
            self.pass_turn(transport)
            raise

    async def aclose(self) -> None:
        self._usability.is_closed = True
        for transport in self._transports:
            await transport.aclose()
