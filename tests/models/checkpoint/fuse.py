"""A read-only file system in FUSE's own protocol, so that a test needs no FUSE library.

It mounts, reads the kernel's requests from /dev/fuse and answers each from `Files`. Needs root.
Knows no misbehaviour: that is `Files`' affair.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

_LOOKUP, _GETATTR, _OPEN, _READ, _RELEASE, _INIT = 1, 3, 14, 15, 18, 26
_OPENDIR, _READDIR, _RELEASEDIR = 27, 28, 29
_SILENT = {2, 36, 38, 42}  # FORGET, INTERRUPT, DESTROY, BATCH_FORGET: no answer is expected.
_HEADER = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_DIRECT_IO = 1  # No page of a file is kept: each read of the reader is a read here.
_REQUEST_BYTES = 1 << 20
_ROOT = 1


class Files(Protocol):
    """Paths are relative to the mount; a method raises OSError with the number to be answered."""

    def stat(self, path: str) -> os.stat_result: ...
    def names(self, path: str) -> list[str]: ...
    def open(self, path: str) -> int: ...
    def read(self, handle: int, offset: int, size: int) -> bytes: ...
    def close(self, handle: int) -> None: ...


def serve(folder: str, files: Files) -> None:
    """Mount at `folder` and answer until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _READ_ONLY | _NO_SUID | _NO_DEVICES
    if libc.mount(b"bucket", folder.encode(), b"fuse.bucket", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount", folder)
    connection = _Connection(device, files)
    with ThreadPoolExecutor(32) as pool:
        while (request := connection.next()) is not None:
            pool.submit(connection.answer, request)


class _Connection:
    def __init__(self, device: int, files: Files) -> None:
        self._device, self._files = device, files
        self._paths = {_ROOT: ""}
        self._nodes = {"": _ROOT}

    def next(self) -> bytes | None:
        """The next request; None once nothing is mounted any more."""
        while True:
            try:
                return os.read(self._device, _REQUEST_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return None
                if error.errno not in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    raise

    def answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode in _SILENT:
            return
        try:
            content, number = self._content(opcode, node, request[_HEADER.size :]), 0
        except OSError as error:
            content, number = b"", -(error.errno or errno.EIO)
        size = _ANSWER.size + len(content)
        # The reader may have been killed, or nothing may be mounted any more.
        with contextlib.suppress(OSError):
            os.write(self._device, _ANSWER.pack(size, number, unique) + content)

    def _content(self, opcode: int, node: int, body: bytes) -> bytes:
        match opcode:
            case _ if opcode == _INIT:
                return _init(body)
            case _ if opcode == _LOOKUP:
                return self._entry(node, body.rstrip(b"\0").decode())
            case _ if opcode == _GETATTR:
                return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case _ if opcode == _OPEN:
                return struct.pack("<QII", self._files.open(self._paths[node]), _DIRECT_IO, 0)
            case _ if opcode == _READ:
                return self._files.read(*struct.unpack_from("<QQI", body))
            case _ if opcode == _RELEASE:
                self._files.close(struct.unpack_from("<Q", body)[0])
                return b""
            case _ if opcode == _OPENDIR:
                return bytes(16)
            case _ if opcode == _READDIR:
                return self._entries(node, *struct.unpack_from("<QQI", body)[1:])
            case _ if opcode == _RELEASEDIR:
                return b""
        raise OSError(errno.ENOSYS, "not answered here")

    def _entry(self, parent: int, name: str) -> bytes:
        path = os.path.join(self._paths[parent], name)
        self._files.stat(path)
        node = self._nodes.setdefault(path, len(self._nodes) + 1)
        self._paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        found = self._files.stat(self._paths[node])
        seconds, rest = divmod(found.st_mtime_ns, 10**9)
        blocks = -(-found.st_size // 512)
        times = (seconds,) * 3 + (rest,) * 3
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
        return _ATTRIBUTES.pack(node, found.st_size, blocks, *times, *owner, 0, 4096, 0)

    def _entries(self, node: int, offset: int, size: int) -> bytes:
        """The folder's names from `offset` on, as many as fit into `size` bytes."""
        content = b""
        for number, name in enumerate(self._files.names(self._paths[node])[offset:], offset + 1):
            raw = name.encode()
            entry = struct.pack("<QQII", number, number, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(content) + len(entry) > size:
                break
            content += entry
        return content


def _init(body: bytes) -> bytes:
    """Protocol 7.31, without any of its options."""
    readahead = struct.unpack_from("<III", body)[2]
    return struct.pack("<4I2H2I2H8I", 7, 31, readahead, 0, 32, 24, 1 << 17, 1, 0, 0, *[0] * 8)
