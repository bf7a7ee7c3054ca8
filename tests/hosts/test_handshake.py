"""The first words of two hosts, said over a real socket, also by those who lack the secret."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from server.hosts.authentication import Greeting
from server.hosts.handshake import (
    MAX_WORD_BYTES,
    Answer,
    Challenge,
    Claim,
    HandshakeError,
    admit,
    enter,
)

SECRET, ANOTHER = b"the secret of this group", b"the secret of another one"


@pytest.fixture
def ends():
    leader, follower = socket.socketpair()
    yield leader, follower
    leader.close()
    follower.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def said(word):
    body = msgspec.msgpack.encode(word)
    return len(body).to_bytes(4, "big") + body


def heard(peer, kind):
    length = int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")
    return msgspec.msgpack.decode(peer.recv(length, socket.MSG_WAITALL), type=kind)


def test_two_hosts_with_the_secret_know_each_other_and_share_seals(ends, pool):
    entering = pool.submit(enter, ends[1], SECRET, 3, "same")
    admitted = admit(ends[0], SECRET)
    seals = entering.result()
    assert (admitted.index, admitted.software) == (3, "same")
    assert admitted.seals.open(bytearray(seals.seal(b"up"))) == b"up"
    assert seals.open(bytearray(admitted.seals.seal(b"down"))) == b"down"


def test_two_connections_of_the_same_hosts_have_different_seals(pool):
    records = []
    for _ in range(2):
        leader, follower = socket.socketpair()
        with leader, follower:
            entering = pool.submit(enter, follower, SECRET, 1, "same")
            admit(leader, SECRET)
            records.append(entering.result().seal(b"data"))
    assert records[0] != records[1]


@pytest.mark.parametrize(
    ("leaders", "followers"), [(SECRET, ANOTHER), (SECRET, b""), (b"", SECRET)]
)
def test_another_secret_or_none_on_one_side_is_refused_before_anything_is_told(
    ends, pool, leaders, followers
):
    entering = pool.submit(enter, ends[1], followers, 1, "same")
    with pytest.raises(HandshakeError, match="host 1 but has another secret: give all hosts"):
        admit(ends[0], leaders)
    ends[0].close()
    with pytest.raises(HandshakeError, match="closed the connection before it proved itself"):
        entering.result()


class TestFalseCallers:
    @pytest.mark.parametrize(
        "words",
        [
            (MAX_WORD_BYTES + 1).to_bytes(4, "big"),
            b"GET / HTTP/1.1\r\n\r\n",
            (2).to_bytes(4, "big") + b"\xc1\xc1",
            (4000).to_bytes(4, "big") + b"\x91" * 4000,
            said(Challenge(nonce=b"n" * 32)),
            said(Claim(index=1, software="same", nonce=b"", proof=b"")),
            said(Claim(index=-(1 << 63), software="\0", nonce=b"n" * 32, proof=b"p" * 5000)),
        ],
        ids=["oversize", "HTTP", "no msgpack", "deep", "another word", "short nonce", "long"],
    )
    def test_what_is_no_claim_is_refused(self, ends, words):
        ends[1].sendall(words)
        with pytest.raises(HandshakeError):
            admit(ends[0], SECRET)

    def test_a_caller_that_drips_bytes_has_as_long_as_a_silent_one(self, ends, pool):
        since = time.monotonic()
        admitting = pool.submit(admit, ends[0], SECRET, 0.5)
        for byte in said(Claim(index=1, software="same" * 100, nonce=b"n" * 32, proof=b"p" * 32)):
            if admitting.done():
                break
            ends[1].send(bytes([byte]))
            time.sleep(0.05)
        with pytest.raises(HandshakeError, match="silent"):
            admitting.result()
        assert time.monotonic() - since < 5

    def test_a_proof_that_was_overheard_proves_nothing_on_another_connection(self, ends, pool):
        listening, speaking = socket.socketpair()
        with listening, speaking:
            entering = pool.submit(enter, speaking, SECRET, 1, "same")
            listening.sendall(said(Challenge(nonce=b"n" * 32)))
            claim = heard(listening, Claim)
        ends[1].sendall(said(claim))
        with pytest.raises(HandshakeError, match="has another secret"):
            admit(ends[0], SECRET)
        with pytest.raises(HandshakeError):
            entering.result()

    @pytest.mark.parametrize("change", [{"index": 2}, {"software": "other"}])
    def test_a_proof_is_for_one_index_and_one_software(self, ends, pool, change):
        admitting = pool.submit(admit, ends[0], SECRET)
        nonce = heard(ends[1], Challenge).nonce
        true = Greeting(leader_nonce=nonce, follower_nonce=b"f" * 32, index=1, software="same")
        claim = {
            "index": 1,
            "software": "same",
            "nonce": true.follower_nonce,
            "proof": true.proof(SECRET, "follower"),
        }
        ends[1].sendall(said(Claim(**claim | change)))
        with pytest.raises(HandshakeError, match="has another secret"):
            admitting.result()


class TestImpostors:
    """Who answers at the leader's address without the secret."""

    def test_a_follower_takes_nothing_from_one_that_sends_its_proof_back(self, ends, pool):
        entering = pool.submit(enter, ends[1], SECRET, 1, "same")
        ends[0].sendall(said(Challenge(nonce=b"n" * 32)))
        ends[0].sendall(said(Answer(proof=heard(ends[0], Claim).proof)))
        with pytest.raises(HandshakeError, match="false proof of the group's secret"):
            entering.result()

    @pytest.mark.parametrize(
        "words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", said(Answer(proof=b""))]
    )
    def test_a_follower_does_not_wait_for_one_that_says_nothing_right(self, ends, words):
        ends[0].sendall(words)
        with pytest.raises(HandshakeError):
            enter(ends[1], SECRET, 1, "same", 0.2)
