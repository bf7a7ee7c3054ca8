"""The parts of `make host-path`: what its clients count, and how its device keeps time."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest

from benchmarks.host_path import device, grpc_streams, http_streams
from benchmarks.host_path.arrivals import Arrivals
from server.engine.policy.blocks.layer_kinds import KVKind
from server.pb.antipode.v1 import generation_pb2 as pb

STEP_SECONDS = 0.05


class Notes:
    """Arrivals that keep what they are told."""

    def __init__(self):
        self.tokens, self.failures = [], []

    def note(self, stream, num_tokens):
        self.tokens.append((stream, num_tokens))

    def fail(self, reason):
        self.failures.append(reason)


def sse(*texts):
    return b"".join(b'data: {"choices":[{"index":0,"text":"%b","x":1}]}\n\n' % t for t in texts)


def chunked(body):
    return b"%x\r\n%b\r\n" % (len(body), body)


def test_letters_of_events_are_tokens_however_the_bytes_are_cut():
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + chunked(sse(b"a")) + chunked(sse(b"bc", b"", b"d"))
    for size in (1, 7, len(answer)):
        notes = Notes()
        stream = http_streams.HttpStream(notes, 5, b"")
        stream.data_received(answer[:20])
        for start in range(20, len(answer), size):
            stream.data_received(answer[start : start + size])
        assert sum(number for _, number in notes.tokens) == 4
        assert {number for number, _ in notes.tokens} == {5}
        assert not notes.failures


def test_a_refusal_is_a_failure_with_the_answer():
    notes = Notes()
    http_streams.HttpStream(notes, 0, b"").data_received(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert "503" in notes.failures[0]


def message(text):
    data = pb.GenerateResponse(text=text).SerializeToString()
    return b"\0" + len(data).to_bytes(4) + data


def test_letters_of_messages_are_tokens_however_the_bytes_are_cut():
    first = grpc_streams.frame(0, 0, 1, message("a") + message("bc")[:4])
    second = grpc_streams.frame(0, 0, 1, message("bc")[4:])
    other = grpc_streams.frame(0, 0, 3, message("d"))
    data = first + other + second
    for size in (1, 7, len(data)):
        notes = Notes()
        connection = grpc_streams.GrpcConnection(notes, 32, "host:1", [b"", b""])
        for start in range(0, len(data), size):
            connection.data_received(data[start : start + size])
        assert notes.tokens == [(32, 1), (33, 1), (32, 2)]
        assert not notes.failures


def test_a_stream_that_ends_is_a_failure():
    notes = Notes()
    connection = grpc_streams.GrpcConnection(notes, 0, "host:1", [b""])
    connection.data_received(grpc_streams.frame(1, grpc_streams._END_STREAM, 1, b""))
    assert notes.failures == ["stream 0 ended early"]


async def test_a_window_has_the_tokens_and_gaps_that_ended_in_it(monkeypatch):
    arrivals = Arrivals(2)
    for at, stream, tokens in ((1.0, 0, 1), (2.0, 1, 1), (3.0, 0, 2), (3.5, 1, 1), (9.0, 0, 1)):
        monkeypatch.setattr(time, "perf_counter", lambda at=at: at)
        arrivals.note(stream, tokens)
        assert arrivals.all_started.is_set() == (at > 1.0)
    window = arrivals.between(1.5, 4.0)
    assert (window.num_tokens, window.num_parts) == (4, 3)
    assert window.gaps == [1.5, 2.0]


async def test_a_failure_is_raised_to_who_waits():
    arrivals = Arrivals(1)
    arrivals.fail("it ended")
    arrivals.fail("and again")
    with pytest.raises(RuntimeError, match="it ended"):
        await asyncio.wait_for(arrivals.failed, 1)


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setattr(device, "pack", lambda *args: None)
    return device.PacedRunner(
        kinds=(KVKind(None, 9),),
        block_size=16,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        max_model_len=128,
        step_seconds=STEP_SECONDS,
    )


def batch():
    row = SimpleNamespace(is_decode=True, is_sampling=True, end=40)
    return SimpleNamespace(rows=(row,))


def test_a_step_ends_a_fixed_time_after_the_one_before(runner):
    begin = time.perf_counter()
    steps = [runner.execute(batch()) for _ in range(3)]
    ends = [step.end - begin for step in steps]
    gaps = [b - a for a, b in itertools.pairwise(ends)]
    assert gaps == [pytest.approx(STEP_SECONDS)] * 2
    runner.read(steps[-1])
    assert time.perf_counter() - begin >= 3 * STEP_SECONDS


def test_an_idle_device_begins_a_step_when_it_gets_it(runner):
    first = runner.execute(batch())
    time.sleep(2 * STEP_SECONDS)
    begin = time.perf_counter()
    assert runner.execute(batch()).end >= begin + STEP_SECONDS
    assert first.end < begin


def test_every_token_is_a_letter(runner):
    (row,) = runner.read(runner.execute(batch())).rows
    assert 68 <= row.token_ids[0] < 68 + 26
