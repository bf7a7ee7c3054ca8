"""Files read in chunks: what is verified, tried again, bounded, and said."""

from __future__ import annotations

import errno
import hashlib
import threading
import time

import pytest

from models.checkpoint import verified_reading as reading
from models.checkpoint.verified_reading import FileReader, FileSums, ReadError, ReadLimits

CONTENT = bytes(range(256)) * 4


class FakeFiles:
    """One file in memory; `faults` are raised by the reads that come, `answer` replaces them."""

    place = "/bucket/1"

    def __init__(self, content=CONTENT):
        self.content = content
        self.faults = []
        self.reads = []
        self.gate = None

    def names(self):
        return ["weights"]

    def size(self, name):
        return len(self.content)

    def read(self, name, offset, length):
        self.reads.append(offset)
        if self.gate is not None:
            self.gate.wait(5)
        if self.faults:
            raise self.faults.pop(0)
        return memoryview(self.content)[offset : offset + length]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_BYTES", 100)
    monkeypatch.setattr(reading, "_FIRST_WAIT_SECONDS", 0.001)


def sums_of(content):
    parts = [content[start : start + 100] for start in range(0, len(content), 100)]
    chunks = tuple(hashlib.sha256(part).hexdigest() for part in parts)
    return {"weights": FileSums(len(content), chunks)}


def refusal(act):
    with pytest.raises(ReadError) as error:
        act()
    return str(error.value)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 100), (50, 60), (99, 101), (37, 1024)])
def test_any_part_is_read(start, stop):
    reader = FileReader(FakeFiles(), sums_of(CONTENT))
    assert reader.read("weights", start, stop) == CONTENT[start:stop]


def test_nothing_is_read_twice_that_is_still_held():
    files = FakeFiles()
    reader = FileReader(files)
    for start in range(0, 100, 10):
        reader.read("weights", start, start + 10)
    assert files.reads == [0]


def test_what_is_announced_is_read_ahead():
    files = FakeFiles()
    reader = FileReader(files, limits=ReadLimits(buffer_bytes=100 * 16, num_threads=4))
    reader.read_ahead([("weights", 0, 1024)])
    reader.read("weights", 0, 10)
    deadline = time.monotonic() + 5
    while len(files.reads) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_no_more_chunks_are_held_than_the_buffer_has_room_for():
    files = FakeFiles(CONTENT * 4)
    limits = ReadLimits(buffer_bytes=100 * 8, num_threads=4)
    reader = FileReader(files, limits=limits)
    reader.read_ahead([("weights", 0, 4096)])
    for start in range(0, 4096, 64):
        reader.read("weights", start, start + 64)
        assert len(reader._chunks) <= limits.num_chunks == 4
    assert len(files.reads) == 41


def test_a_fault_is_tried_again_within_bounds():
    files = FakeFiles()
    files.faults = [OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "broken")]
    assert FileReader(files).read("weights", 0, 10) == CONTENT[:10]
    files.faults = [OSError(errno.ESTALE, "Stale file handle")] * 3
    message = refusal(lambda: FileReader(files).read("weights", 0, 10))
    assert message == "reading /bucket/1/weights failed: [Errno 116] Stale file handle"


def test_another_size_than_published_is_refused_before_a_byte_is_read():
    files = FakeFiles(CONTENT[:-1])
    message = refusal(lambda: FileReader(files, sums_of(CONTENT)).read("weights", 0, 10))
    assert "/bucket/1/weights has 1023 bytes, but was published with 1024" in message
    assert files.reads == []


def test_other_bytes_than_published_are_refused():
    files = FakeFiles(CONTENT[:500] + b"x" + CONTENT[501:])
    reader = FileReader(files, sums_of(CONTENT))
    assert reader.read("weights", 0, 500) == CONTENT[:500]
    message = refusal(lambda: reader.read("weights", 550, 560))
    assert "does not have the checksum it was published with, in the 100 bytes from 500" in message


def test_a_place_that_does_not_answer_is_given_up_on():
    files = FakeFiles()
    files.gate = threading.Event()
    reader = FileReader(files, limits=ReadLimits(timeout_seconds=0.05))
    message = refusal(lambda: reader.read("weights", 0, 10))
    assert "took more than 0.05 s: the mount or bucket does not answer" in message
    files.gate.set()


def test_beyond_the_end_there_is_nothing():
    message = refusal(lambda: FileReader(FakeFiles()).read("weights", 1000, 1025))
    assert message == "/bucket/1/weights ends before byte 1025"
