"""The cryptography between two hosts: proofs of the group's secret, and sealed records after that.

A proof is an HMAC-SHA256 over the nonces of both sides, the prover's role, and the follower's
greeting. The keys of the seals come from the secret and the same values, one key for each
direction. Authenticates and orders; encrypts nothing. Knows neither sockets nor messages.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Literal

import msgspec

NONCE_BYTES = 32
_TAG_BYTES = 16
_LENGTH_BYTES = 4
_HEADER_BYTES = _LENGTH_BYTES + _TAG_BYTES
_PROTOCOL = "antipode group 1"

type Role = Literal["leader", "follower"]


class SealError(ValueError):
    """What arrived is not what the other host sent; the message says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What both sides prove that they mean. The nonces are fresh for each connection."""

    leader_nonce: bytes
    follower_nonce: bytes
    index: int
    software: str

    def proof(self, secret: bytes, role: Role) -> bytes:
        """The proof that `role` knows `secret`, which is valid on this connection only."""
        return _derive(secret, f"proof of the {role}", self)

    def seals(self, secret: bytes, role: Role) -> Seals:
        """The seals of the end of `role`."""
        keys = {
            "leader": _derive(secret, "frames of the leader", self),
            "follower": _derive(secret, "frames of the follower", self),
        }
        own = keys.pop(role)
        (others,) = keys.values()
        return Seals(own, others)


def is_proof(proof: bytes, expected: bytes) -> bool:
    """Compare in a time that depends on no byte of either."""
    return hmac.compare_digest(proof, expected)


class Seals:
    """Seals and opens the records of one end. One thread may seal while another one opens.

    A record is a length, the length's tag, the data and its tag. A tag covers the number of tags
    before it, so a repeated, left out, moved or foreign byte makes the next tag false. The length
    has a tag of its own, so a false length makes nobody wait for bytes that never come.
    """

    def __init__(self, own_key: bytes, others_key: bytes) -> None:
        self._own, self._others = _Tags(own_key), _Tags(others_key)
        # The length of the record whose header has been opened; None before the next header.
        self._length: int | None = None

    def seal(self, data: bytes) -> bytes:
        """One record."""
        length = len(data).to_bytes(_LENGTH_BYTES, "big")
        return b"".join((length, self._own.next(length), data, self._own.next(data)))

    def open(self, buffer: bytearray) -> bytes:
        """Take every whole record off the front of `buffer` and return their data.

        Raises SealError as soon as the bytes are not the next ones that the other host sealed.
        """
        opened = []
        while (data := self._open_one(buffer)) is not None:
            opened.append(data)
        return b"".join(opened)

    def _open_one(self, buffer: bytearray) -> bytes | None:
        if self._length is None:
            if len(buffer) < _HEADER_BYTES:
                return None
            self._length = int.from_bytes(self._take(buffer, _LENGTH_BYTES), "big")
        if len(buffer) < self._length + _TAG_BYTES:
            return None
        length, self._length = self._length, None
        return self._take(buffer, length)

    def _take(self, buffer: bytearray, length: int) -> bytes:
        data, tag = bytes(buffer[:length]), bytes(buffer[length : length + _TAG_BYTES])
        if not hmac.compare_digest(tag, self._others.next(data)):
            raise SealError(
                "bytes arrived that it did not send, or not in this order: something else writes "
                "to the connection"
            )
        del buffer[: length + _TAG_BYTES]
        return data


class _Tags:
    """The tags of one direction. The same data never has the same tag again."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def next(self, data: bytes) -> bytes:
        numbered = self._count.to_bytes(8, "big") + data
        self._count += 1
        return hmac.digest(self._key, numbered, "sha256")[:_TAG_BYTES]


def _derive(secret: bytes, purpose: str, greeting: Greeting) -> bytes:
    # A list in msgpack has one spelling only, so no two meanings have the same bytes.
    meaning = (
        _PROTOCOL,
        purpose,
        greeting.leader_nonce,
        greeting.follower_nonce,
        greeting.index,
        greeting.software,
    )
    return hmac.digest(secret, msgspec.msgpack.encode(meaning), "sha256")
