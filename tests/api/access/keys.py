"""A file of two keys, and what a caller sends with them."""

from __future__ import annotations

from pathlib import Path

from server.api.access.api_keys import ApiKeys, read_api_keys
from server.files.watched_files import WatchedFiles

KEY, LIMITED = "a-key-of-the-search-team", "a-key-of-the-batch-team"
BEARER = {"authorization": f"Bearer {KEY}"}
BEARER_OF_LIMITED = {"authorization": f"Bearer {LIMITED}"}


def two_keys(folder: Path, clock=None) -> WatchedFiles[ApiKeys]:
    path = folder / "keys"
    path.write_text(f"search: {KEY}\nbatch: {LIMITED} requests_per_minute=1\n")
    options = {} if clock is None else {"clock": clock}
    return WatchedFiles([path], lambda: read_api_keys(path), **options)
