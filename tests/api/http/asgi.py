"""One request driven by hand: what the server writes, when, and what its client does meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable

from starlette.types import ASGIApp, Message

from server.api.http.connections.writing import PARTS, Parts


class DirectParts:
    """Takes parts of a body at once, as the server's connections do; full when the test says so."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_full = False

    @property
    def can_write_part(self) -> bool:
        return not self.is_full

    def write_part(self, part: bytes) -> None:
        self.parts.append(part)

    async def until_written(self, count: int) -> None:
        """Wait for that many parts."""
        async with asyncio.timeout(5):
            while len(self.parts) < count:
                await asyncio.sleep(0)


class Exchange:
    """A POST to `app`; `writes` is what was sent. `before_write` may block, as slow clients do."""

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        body: object,
        before_write: Callable[[], Awaitable[None]] | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.writes: list[Message] = []
        self._before_write = before_write
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        self._written = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("server", 80),
            "client": ("client", 1),
            "root_path": "",
            "extensions": {} if parts is None else {PARTS: parts},
        }
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    @property
    def bodies(self) -> list[bytes]:
        """The non-empty writes of the response's body."""
        return [write["body"] for write in self.writes if write.get("body")]

    def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def until_written(self, count: int) -> None:
        """Wait for that many non-empty writes of the body."""
        while len(self.bodies) < count:
            self._written.clear()
            await asyncio.wait_for(self._written.wait(), 5)

    async def _send(self, message: Message) -> None:
        if self._before_write is not None and message["type"] == "http.response.body":
            await self._before_write()
        self.writes.append(message)
        self._written.set()


def joined(lists: Iterable[list]) -> list:
    """One list of all their elements."""
    return list(itertools.chain.from_iterable(lists))


def events(body: bytes) -> list[object]:
    """The data of server-sent events, decoded; `[DONE]` as it is."""
    *whole, rest = body.decode().split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") for event in whole)
    data = [event.removeprefix("data: ") for event in whole]
    return [datum if datum == "[DONE]" else json.loads(datum) for datum in data]
