"""How much of its allowance each name has left: a bucket of requests and a bucket of tokens.

A bucket holds a minute's worth and fills at a constant rate. A call is let in while there is
something left, and then spends what it used, so one call may take a bucket below zero. The buckets
are in a file that all API processes of a server map, because a caller's connections spread over
them. Time is an argument, of a clock that the processes share. The gatekeeper refuses who has spent
its budget. Knows neither keys nor transports.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.api.access.api_keys import MAX_KEYS, Caller

# The file's name, next to the engine's socket.
BUDGETS = "budgets"
_MINUTE = 60.0
# The digest of a name and its limits, both levels, and when they were filled.
_RECORD = struct.Struct("<32s3d")
# A name whose limits change gets a new record, so there is room for several changes of all names.
_NUM_RECORDS = 4 * MAX_KEYS
_SIZE = _NUM_RECORDS * _RECORD.size
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_REQUESTS, _TOKENS = range(2)
_LIMITS = ("requests_per_minute", "tokens_per_minute")


def reserve_budgets(path: Path) -> None:
    """Make the file at `path` with its room on the disk. OSError where there is none."""
    file = os.open(path, _FLAGS, 0o600)
    try:
        _reserve(file)
    finally:
        os.close(file)


def _reserve(file: int) -> None:
    """A hole in a file on a full disk would end the process at the first write into it."""
    os.posix_fallocate(file, 0, _SIZE)


@dataclass(slots=True)
class Bucket:
    """Units that flow in at `per_minute` and never exceed it; 0 is without limit."""

    per_minute: float
    level: float

    def fill(self, seconds: float) -> None:
        self.level = min(self.per_minute, self.level + seconds * self.per_minute / _MINUTE)

    def seconds_until(self, least: float) -> float:
        """How long it takes until the bucket holds `least`; 0 if it does."""
        if not self.per_minute:
            return 0.0
        return max(0.0, (least - self.level) * _MINUTE / self.per_minute)


class Budgets:
    """The buckets of every name, in the file at `path`; without it, only this process has them."""

    def __init__(self, path: Path | None = None) -> None:
        file = os.memfd_create("budgets") if path is None else os.open(path, _FLAGS, 0o600)
        weakref.finalize(self, os.close, file)
        _reserve(file)
        self._file, self._records = file, mmap.mmap(file, _SIZE)

    def admit(self, caller: Caller, now: float) -> tuple[float, str]:
        """Spend one request. If nothing is left, spend none: how long to wait, for which limit."""
        if not any(_limits_of(caller)):
            return 0.0, ""
        with self._buckets(caller, now) as buckets:
            waits = [bucket.seconds_until(1) for bucket in buckets]
            seconds = max(waits)
            if seconds > 0:
                return seconds, _LIMITS[waits.index(seconds)]
            buckets[_REQUESTS].level -= 1
        return 0.0, ""

    def spend_tokens(self, caller: Caller, num_tokens: int, now: float) -> None:
        if caller.allowance.tokens_per_minute:
            with self._buckets(caller, now) as buckets:
                buckets[_TOKENS].level -= num_tokens

    @contextmanager
    def _buckets(self, caller: Caller, now: float) -> Iterator[list[Bucket]]:
        """The caller's buckets, filled until now; no process touches them meanwhile.

        The kernel gives back the lock of a process that dies.
        """
        digest = hashlib.sha256(repr((caller.name, _limits_of(caller))).encode()).digest()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            place, levels, filled_at = self._read(digest, caller)
            buckets = [Bucket(*pair) for pair in zip(_limits_of(caller), levels, strict=True)]
            for bucket in buckets:
                bucket.fill(max(0.0, now - filled_at))
            yield buckets
            left = [bucket.level for bucket in buckets]
            _RECORD.pack_into(self._records, place, digest, *left, max(now, filled_at))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self, digest: bytes, caller: Caller) -> tuple[int, tuple[float, ...], float]:
        """Where the record is, its levels, and when they were filled. A new one is full."""
        place = self._records.find(digest)
        if place < 0:
            return self._longest_unused(), _limits_of(caller), 0.0
        _, *levels, filled_at = _RECORD.unpack_from(self._records, place)
        return place, tuple(levels), filled_at

    def _longest_unused(self) -> int:
        """An empty record was filled at 0."""
        filled = [filled_at for *_, filled_at in _RECORD.iter_unpack(self._records)]
        return filled.index(min(filled)) * _RECORD.size


def _limits_of(caller: Caller) -> tuple[float, float]:
    return caller.allowance.requests_per_minute, caller.allowance.tokens_per_minute
