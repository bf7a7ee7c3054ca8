"""Reads and publishes a version's files in a Cloud Storage bucket, without a mount.

Every read of an object asks for the generation that the first look found. So a replaced object is
an error, never a mixture of two. Works with an emulator through STORAGE_EMULATOR_HOST. Needs the
extra `gcs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.checkpoint import manifest

SCHEME = "gs://"
_TIMEOUT_SECONDS = 60.0


class GcsError(ValueError):
    """The bucket cannot be used; the message says why, and what to do."""


class GcsAccessError(GcsError):
    """There are no credentials now: a token may be on its way, or a metadata server be slow."""


def is_gcs(path: str) -> bool:
    """Whether a path names a bucket."""
    return path.startswith(SCHEME)


class GcsFiles:
    """The objects directly under `gs://bucket/folder`, as `Files`. For use by any thread."""

    def __init__(self, path: str) -> None:
        name, _, folder = path.removeprefix(SCHEME).strip("/").partition("/")
        if not is_gcs(path) or not name:
            raise GcsError(f"{path} is no bucket path: it must be gs://BUCKET/FOLDER")
        self._name, self._prefix = name, f"{folder}/" if folder else ""
        self._bucket = _client().bucket(name)
        self._blobs: dict[str, Any] = {}

    @property
    def place(self) -> str:
        return f"{SCHEME}{self._name}/{self._prefix}".rstrip("/")

    def names(self) -> list[str]:
        with _as_os_errors(self.place):
            blobs = self._bucket.client.list_blobs(
                self._bucket, prefix=self._prefix, delimiter="/", timeout=_TIMEOUT_SECONDS
            )
            found = [blob.name.removeprefix(self._prefix) for blob in blobs]
        return sorted(filter(None, found))

    def size(self, name: str) -> int:
        return int(self._blob(name).size)

    def read(self, name: str, offset: int, length: int) -> memoryview:
        blob = self._blob(name)
        with _as_os_errors(f"{self.place}/{name}"):
            data = blob.download_as_bytes(
                start=offset,
                end=offset + length - 1,
                raw_download=True,
                checksum=None,
                if_generation_match=blob.generation,
                timeout=_TIMEOUT_SECONDS,
            )
        if len(data) != length:
            raise OSError(errno.EIO, f"{name} ends {length - len(data)} bytes too soon")
        return memoryview(data)

    def folders(self) -> list[str]:
        """The names of the folders directly below this path."""
        with _as_os_errors(self.place):
            blobs = self._bucket.client.list_blobs(
                self._bucket, prefix=self._prefix, timeout=_TIMEOUT_SECONDS
            )
            inner = [blob.name.removeprefix(self._prefix).split("/") for blob in blobs]
        return sorted({parts[0] for parts in inner if len(parts) > 1})

    def upload(self, folder: Path) -> None:
        """Write every file of `folder`, the manifest last. FileExistsError if any is there."""
        if self.names():
            raise FileExistsError(f"{self.place} exists already; a version is never overwritten")
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        paths.sort(key=lambda path: path.name == manifest.NAME)
        for path in paths:
            name = path.relative_to(folder).as_posix()
            blob = self._bucket.blob(self._prefix + name)
            with _as_os_errors(f"{self.place}/{name}"):
                # Generation 0 means "does not exist": the second publisher of a version fails.
                blob.upload_from_filename(str(path), if_generation_match=0)

    def _blob(self, name: str) -> Any:
        if name not in self._blobs:
            with _as_os_errors(f"{self.place}/{name}"):
                blob = self._bucket.get_blob(self._prefix + name, timeout=_TIMEOUT_SECONDS)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._blobs[name] = blob
        return self._blobs[name]


def _client() -> Any:
    try:
        from google.cloud import storage
    except ImportError as error:
        raise GcsError("reading gs:// needs google-cloud-storage: install the extra gcs") from error
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return storage.Client()
    except (DefaultCredentialsError, OSError) as error:
        raise GcsAccessError(f"there are no credentials for Cloud Storage: {error}") from error


@contextmanager
def _as_os_errors(what: str) -> Iterator[None]:
    """Turns the library's errors into those of `Files`, so that callers treat both alike."""
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except PreconditionFailed as error:
        raise OSError(errno.ESTALE, f"{what} was changed while it was read") from error
    except NotFound as error:
        raise FileNotFoundError(errno.ENOENT, f"{what} is not there") from error
    except Forbidden as error:
        raise PermissionError(errno.EACCES, f"{what} may not be read or written") from error
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise OSError(errno.EIO, f"{what}: {error}") from error
