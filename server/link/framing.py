"""Sends frames over a stream socket: msgpack behind a four-byte big-endian length.

Knows the union of frames of each direction, but no frame by name.
"""

from __future__ import annotations

import msgspec

from server.link.frames import ToApi, ToEngine

MAX_FRAME_BYTES = 256 << 20
_LENGTH_BYTES = 4


class Codec[Sent, Received]:
    """Encodes frames of one direction and decodes frames of the other. For one thread at a time."""

    def __init__(self, received: type[Received]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(received)

    def encode(self, frame: Sent) -> bytes:
        body = self._encoder.encode(frame)
        return len(body).to_bytes(_LENGTH_BYTES, "big") + body

    def feed(self, buffer: bytearray) -> list[Received]:
        """Take every whole frame off the front of `buffer`; ValueError if one is too large."""
        frames: list[Received] = []
        start = 0
        while (frame_end := self._frame_end(buffer, start)) is not None:
            frames.append(self._decoder.decode(memoryview(buffer)[start + 4 : frame_end]))
            start = frame_end
        del buffer[:start]
        return frames

    @staticmethod
    def _frame_end(buffer: bytearray, start: int) -> int | None:
        body = start + _LENGTH_BYTES
        if len(buffer) < body:
            return None
        length = int.from_bytes(buffer[start:body], "big")
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
        return body + length if len(buffer) >= body + length else None


def engine_codec() -> Codec[ToApi, ToEngine]:
    """The codec of the engine's end."""
    return Codec(ToEngine.__value__)


def api_codec() -> Codec[ToEngine, ToApi]:
    """The codec of an API process's end."""
    return Codec(ToApi.__value__)
