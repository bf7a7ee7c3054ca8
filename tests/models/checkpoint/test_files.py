"""The buffers that files are read into."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.checkpoint.files import empty_buffer

# Several threads hold two large buffers each, as readers do. A process of its own: what other tests
# have freed would serve these.
KEPT = """
import threading
from models.checkpoint.files import empty_buffer

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def hold(place):
    for _ in range(3):
        buffer = empty_buffer(16 << 20)
        buffer[::4096] = bytes(len(buffer[::4096])).replace(b"\\0", b"x")
        held[place] = buffer

held = {}
before = resident_bytes()
threads = [threading.Thread(target=hold, args=(i,)) for i in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
held.clear()
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.parametrize("length", [0, 1, 4096, 1 << 20, 5 << 20])
def test_a_buffer_holds_zeros_and_takes_what_is_written(length):
    buffer = empty_buffer(length)
    assert bytes(buffer) == bytes(length)
    buffer[:] = b"x" * length
    assert bytes(buffer) == b"x" * length


def test_large_buffers_go_back_to_the_system_with_their_last_reference():
    ended = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 16
