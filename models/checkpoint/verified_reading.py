"""Reads a checkpoint's files in large pieces: in parallel, ahead, verified, in bounded memory.

The reader tries a failed piece again a few times. If a mount or bucket does not answer in time, the
reader gives up and abandons the threads that wait for it. Knows neither what the bytes mean nor
where they come from.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from models.checkpoint.files import Files, empty_buffer

# A mount or a bucket takes far longer for the first byte than for the next megabyte.
CHUNK_BYTES = 16 << 20
_FIRST_WAIT_SECONDS = 0.2

# A file's name and a chunk's number within the file.
type _Key = tuple[str, int]


class ReadError(ValueError):
    """A file cannot be read, or differs from its manifest; the message says which file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """At most `buffer_bytes` in memory, and `attempts` of `timeout_seconds` each per chunk."""

    buffer_bytes: int = 1 << 30
    num_threads: int = 8
    attempts: int = 3
    timeout_seconds: float = 30.0

    @property
    def num_chunks(self) -> int:
        """Chunks to keep in memory, not counting those that the threads are reading."""
        return max(2, self.buffer_bytes // CHUNK_BYTES - self.num_threads)


@dataclass(frozen=True, slots=True)
class FileSums:
    """A file's expected size, and the expected SHA-256 of every chunk, in hexadecimal."""

    size: int
    chunks: tuple[str, ...]


class FileReader:
    """Reads the files of one folder, for one thread; verifies the files that `sums` lists."""

    def __init__(
        self,
        files: Files,
        sums: Mapping[str, FileSums] | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        self._files, self._sums = files, sums or {}
        self._limits = limits or ReadLimits()
        self._threads = _Threads(self._limits.num_threads)
        self._chunks: OrderedDict[_Key, Future[memoryview]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._ahead: deque[_Key] = deque()
        self._unused: set[_Key] = set()

    @property
    def place(self) -> str:
        return self._files.place

    def names(self) -> list[str]:
        """The names of the files."""
        return self._ask(self._files.names, f"listing {self.place}")

    def size(self, name: str) -> int:
        """The size of a file in bytes; ReadError if it is not the expected size."""
        if name not in self._sizes:
            size = self._ask(lambda: self._files.size(name), f"looking up {self.path(name)}")
            if name in self._sums and size != self._sums[name].size:
                raise ReadError(
                    f"{self.path(name)} has {size} bytes, but was published with "
                    f"{self._sums[name].size}: it is truncated, replaced, or not all there yet"
                )
            self._sizes[name] = size
        return self._sizes[name]

    def read(self, name: str, start: int, stop: int) -> memoryview:
        """These bytes of a file; the caller must not write to them."""
        if stop > self.size(name):
            raise ReadError(f"{self.path(name)} ends before byte {stop}")
        first, last = start // CHUNK_BYTES, max(start, stop - 1) // CHUNK_BYTES
        if first == last:
            base = first * CHUNK_BYTES
            return self._chunk((name, first))[start - base : stop - base]
        whole = empty_buffer(stop - start)
        for number in range(first, last + 1):
            base = number * CHUNK_BYTES
            part = self._chunk((name, number))[max(0, start - base) : stop - base]
            at = max(base, start) - start
            whole[at : at + len(part)] = part
        return whole

    def read_ahead(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """Announce the ranges (name, start, stop) that will be read, in the order of reading."""
        keys = (
            (name, number)
            for name, start, stop in ranges
            for number in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES))
        )
        self._ahead = deque(dict.fromkeys(keys))

    def path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _chunk(self, key: _Key) -> memoryview:
        self._unused.discard(key)
        future = self._chunks.get(key) or self._start(key)
        self._chunks.move_to_end(key)
        while self._ahead and len(self._unused) < self._limits.num_chunks // 2:
            following = self._ahead.popleft()
            if following not in self._chunks:
                self._start(following)
                self._unused.add(following)
        return self._wait(future, f"reading {self.path(key[0])}")

    def _start(self, key: _Key) -> Future[memoryview]:
        while len(self._chunks) >= self._limits.num_chunks:
            dropped, _ = self._chunks.popitem(last=False)
            self._unused.discard(dropped)
        name, number = key
        start = number * CHUNK_BYTES
        length = min(CHUNK_BYTES, self.size(name) - start)
        future = self._threads.submit(lambda: self._fetch(name, number, length))
        self._chunks[key] = future
        return future

    def _fetch(self, name: str, number: int, length: int) -> memoryview:
        chunk = self._insist(lambda: self._files.read(name, number * CHUNK_BYTES, length))
        if name in self._sums:
            self._verify(name, number, chunk)
        return chunk

    def _verify(self, name: str, number: int, chunk: memoryview) -> None:
        if hashlib.sha256(chunk).hexdigest() != self._sums[name].chunks[number]:
            raise ReadError(
                f"{self.path(name)} does not have the checksum it was published with, in the "
                f"{len(chunk)} bytes from {number * CHUNK_BYTES}: it is damaged or was replaced"
            )

    def _ask[T](self, question: Callable[[], T], doing: str) -> T:
        return self._wait(self._threads.submit(lambda: self._insist(question)), doing)

    def _insist[T](self, question: Callable[[], T]) -> T:
        """Retry after a failure, a few times, with a longer wait each time."""
        wait = _FIRST_WAIT_SECONDS
        for _ in range(self._limits.attempts - 1):
            try:
                return question()
            except OSError:
                time.sleep(wait)
                wait *= 2
        return question()

    def _wait[T](self, future: Future[T], doing: str) -> T:
        try:
            return future.result(self._limits.timeout_seconds)
        except TimeoutError:
            raise ReadError(
                f"{doing} took more than {self._limits.timeout_seconds:g} s: "
                "the mount or bucket does not answer"
            ) from None
        except OSError as error:
            raise ReadError(f"{doing} failed: {error}") from error


class _Threads:
    """At most `limit` threads, started as work arrives. Nothing waits for the threads to end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._num_threads = 0
        self._lock = threading.Lock()

    def submit[T](self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._work.put(run)
        with self._lock:
            if self._num_threads < self._limit:
                self._num_threads += 1
                threading.Thread(target=self._run, name="read", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._work.empty():
                    self._num_threads -= 1
                    return
                run = self._work.get()
            run()
