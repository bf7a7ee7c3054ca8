"""Reads streams of /v1/completions from bare sockets, at a cost far below the server's.

A letter is a token: that is how the paced device draws them. Parses of an answer only its first
line and the texts of its events.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import cast

from benchmarks.host_path.arrivals import Arrivals

_TEXT = b'"text":"'


class HttpStream(asyncio.Protocol):
    """One connection with one stream."""

    def __init__(self, arrivals: Arrivals, number: int, request: bytes) -> None:
        self._arrivals, self._number, self._request = arrivals, number, request
        self._rest = b""
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is a transport, but no subclass.
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            if not data.startswith(b"HTTP/1.1 200"):
                self._arrivals.fail(data.decode(errors="replace")[:500])
        whole, separator, self._rest = (self._rest + data).rpartition(b"\n\n")
        if separator and (num_tokens := count_letters(whole)):
            self._arrivals.note(self._number, num_tokens)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrivals.fail(f"stream {self._number} ended early: {exc}")


def count_letters(events: bytes) -> int:
    """The letters of all texts in whole events."""
    return sum(part.index(b'"') for part in events.split(_TEXT)[1:])


async def open_streams(
    address: str, prompts: list[list[int]], max_tokens: int, arrivals: Arrivals
) -> list[asyncio.BaseTransport]:
    """One connection for each prompt; close them to end the streams."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    opened: list[asyncio.BaseTransport] = []
    for number, prompt in enumerate(prompts):
        made = partial(HttpStream, arrivals, number, _request(address, prompt, max_tokens))
        transport, _ = await loop.create_connection(made, host, int(port))
        opened.append(transport)
    return opened


def _request(address: str, prompt: list[int], max_tokens: int) -> bytes:
    asked = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
