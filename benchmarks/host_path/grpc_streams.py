"""Reads streams of antipode.v1 from bare sockets, at a cost far below that of a gRPC library.

Speaks as much of HTTP/2 as a client of streams needs: it opens windows that are never used up,
answers settings and pings, and takes messages from data frames. A letter is a token.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import cast

import hpack

from benchmarks.host_path.arrivals import Arrivals
from server.pb.antipode.v1 import generation_pb2 as pb

_STREAMS_PER_CONNECTION = 16
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4
_MOST = 2**31 - 1
_FIRST_WINDOW = 65_535
_ENDS = {_RST_STREAM: "was reset", _GOAWAY: "is on a connection that the server closes"}


class GrpcConnection(asyncio.Protocol):
    """One connection with a stream for each request; the first one's number is `first`."""

    def __init__(self, arrivals: Arrivals, first: int, address: str, requests: list[bytes]) -> None:
        self._arrivals, self._first = arrivals, first
        self._address, self._requests = address, requests
        self._rest = b""
        self._messages: dict[int, bytes] = defaultdict(bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is a transport, but no subclass.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        transport.write(frame(_SETTINGS, 0, 0, struct.pack(">HL", _INITIAL_WINDOW_SIZE, _MOST)))
        transport.write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", _MOST - _FIRST_WINDOW)))
        encoder = hpack.Encoder()
        for i, request in enumerate(self._requests):
            stream_id, head = 1 + 2 * i, encoder.encode(_headers(self._address))
            transport.write(frame(_HEADERS, _END_HEADERS, stream_id, head))
            message = struct.pack(">BL", 0, len(request)) + request
            transport.write(frame(_DATA, _END_STREAM, stream_id, message))

    def data_received(self, data: bytes) -> None:
        frames, self._rest = split_frames(self._rest + data)
        for kind, flags, stream_id, payload in frames:
            if kind == _DATA:
                self._take(stream_id, payload)
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                answer = payload if kind == _PING else b""
                self._transport.write(frame(kind, _ACK, 0, answer))
            elif kind in _ENDS:
                self._arrivals.fail(f"a stream {_ENDS[kind]}")
            elif kind == _HEADERS and flags & _END_STREAM:
                self._arrivals.fail(f"stream {self._first + stream_id // 2} ended early")

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrivals.fail(f"a connection ended early: {exc}")

    def _take(self, stream_id: int, payload: bytes) -> None:
        messages, self._messages[stream_id] = split_messages(self._messages[stream_id] + payload)
        letters = sum(len(pb.GenerateResponse.FromString(each).text) for each in messages)
        if letters:
            self._arrivals.note(self._first + stream_id // 2, letters)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return (
        struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream_id) + payload
    )


def split_frames(data: bytes) -> tuple[list[tuple[int, int, int, bytes]], bytes]:
    """Kind, flags, stream and payload of every whole frame, and what is left."""
    frames, start = [], 0
    while len(data) - start >= 9:
        end = start + 9 + int.from_bytes(data[start : start + 3])
        if end > len(data):
            break
        kind, flags, stream_id = struct.unpack_from(">BBL", data, start + 3)
        frames.append((kind, flags, stream_id, data[start + 9 : end]))
        start = end
    return frames, data[start:]


def split_messages(data: bytes) -> tuple[list[bytes], bytes]:
    """Every whole gRPC message, and what is left. None is compressed."""
    messages, start = [], 0
    while len(data) - start >= 5:
        end = start + 5 + int.from_bytes(data[start + 1 : start + 5])
        if end > len(data):
            break
        messages.append(data[start + 5 : end])
        start = end
    return messages, data[start:]


async def open_streams(
    address: str, prompts: list[list[int]], max_tokens: int, arrivals: Arrivals
) -> list[asyncio.BaseTransport]:
    """A connection for every few prompts; close them to end the streams."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    opened: list[asyncio.BaseTransport] = []
    for first, some in _parts([_request(prompt, max_tokens) for prompt in prompts]):
        made = partial(GrpcConnection, arrivals, first, address, some)
        transport, _ = await loop.create_connection(made, host, int(port))
        opened.append(transport)
    return opened


def _parts(requests: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    for first in range(0, len(requests), _STREAMS_PER_CONNECTION):
        yield first, requests[first : first + _STREAMS_PER_CONNECTION]


def _headers(address: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/antipode.v1.Generation/Generate"),
        (":authority", address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


def _request(prompt: list[int], max_tokens: int) -> bytes:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        sampling=pb.Sampling(max_tokens=max_tokens, ignore_eos=True),
    ).SerializeToString()
