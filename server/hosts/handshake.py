"""The first words of a connection: both sides prove that they have the group's secret.

    leader -> follower   Challenge(nonce)
    follower -> leader   Claim(index, software, nonce, proof)
    leader -> follower   Answer(proof)

The follower proves itself first, so a caller without the secret learns a nonce and nothing else.
Reads no byte behind the last word. Knows neither the messages of a group nor who may connect.
"""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass

import msgspec

from server.hosts.authentication import NONCE_BYTES, Greeting, Seals, is_proof

# Nobody is known before the last word, so a word is short and all of them come soon.
MAX_WORD_BYTES = 4096
HANDSHAKE_SECONDS = 5.0
_LENGTH_BYTES = 4


class HandshakeError(Exception):
    """The other side is no host of this group; the message says what it did."""


class Challenge(msgspec.Struct, frozen=True, kw_only=True, tag="challenge"):
    """The leader's nonce."""

    nonce: bytes


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag="claim"):
    """Who the follower is. `software` must be the same on all hosts."""

    index: int
    software: str
    nonce: bytes
    proof: bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """The leader's proof."""

    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A follower that has proved itself, and the seals of the connection to it."""

    index: int
    software: str
    seals: Seals


def admit(peer: socket.socket, secret: bytes, timeout: float = HANDSHAKE_SECONDS) -> Admitted:
    """The leader's side. Raises HandshakeError for a caller that is no host of this group."""
    deadline = time.monotonic() + timeout
    nonce = secrets.token_bytes(NONCE_BYTES)
    _send(peer, Challenge(nonce=nonce), deadline)
    claim = _receive(peer, Claim, deadline)
    greeting = _greeting(nonce, claim.nonce, claim.index, claim.software)
    if not is_proof(claim.proof, greeting.proof(secret, "follower")):
        raise HandshakeError(
            f"it says that it is host {claim.index} but has another secret: give all hosts the "
            "same group_secret_file"
        )
    _send(peer, Answer(proof=greeting.proof(secret, "leader")), deadline)
    return Admitted(
        index=claim.index, software=claim.software, seals=greeting.seals(secret, "leader")
    )


def enter(
    peer: socket.socket,
    secret: bytes,
    index: int,
    software: str,
    timeout: float = HANDSHAKE_SECONDS,
) -> Seals:
    """A follower's side. Raises HandshakeError where the other side is not the leader."""
    deadline = time.monotonic() + timeout
    challenge = _receive(peer, Challenge, deadline)
    nonce = secrets.token_bytes(NONCE_BYTES)
    greeting = _greeting(challenge.nonce, nonce, index, software)
    proof = greeting.proof(secret, "follower")
    _send(peer, Claim(index=index, software=software, nonce=nonce, proof=proof), deadline)
    answer = _receive(peer, Answer, deadline)
    if not is_proof(answer.proof, greeting.proof(secret, "leader")):
        raise HandshakeError("it sent a false proof of the group's secret")
    return greeting.seals(secret, "follower")


def _greeting(leader_nonce: bytes, follower_nonce: bytes, index: int, software: str) -> Greeting:
    if len(leader_nonce) != NONCE_BYTES or len(follower_nonce) != NONCE_BYTES:
        raise HandshakeError(f"it sent a nonce of another length than {NONCE_BYTES} bytes")
    return Greeting(
        leader_nonce=leader_nonce, follower_nonce=follower_nonce, index=index, software=software
    )


def _send(peer: socket.socket, word: msgspec.Struct, deadline: float) -> None:
    body = msgspec.msgpack.encode(word)
    try:
        peer.settimeout(_remaining(deadline))
        peer.sendall(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    except OSError as error:
        raise HandshakeError(f"it does not listen: {error}") from error


def _receive[T](peer: socket.socket, kind: type[T], deadline: float) -> T:
    length = int.from_bytes(_receive_bytes(peer, _LENGTH_BYTES, deadline), "big")
    if length > MAX_WORD_BYTES:
        raise HandshakeError(f"it began with a word of {length} bytes, more than {MAX_WORD_BYTES}")
    body = _receive_bytes(peer, length, deadline)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise HandshakeError(f"it sent something else than {kind.__name__}") from error


def _receive_bytes(peer: socket.socket, count: int, deadline: float) -> bytes:
    """Exactly so many bytes, all of them before the deadline, however slowly they come."""
    data = b""
    while len(data) < count:
        try:
            peer.settimeout(_remaining(deadline))
            more = peer.recv(count - len(data))
        except TimeoutError as error:
            raise HandshakeError("it was silent") from error
        except OSError as error:
            raise HandshakeError(f"the connection broke: {error}") from error
        if not more:
            raise HandshakeError("it closed the connection before it proved itself")
        data += more
    return data


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
