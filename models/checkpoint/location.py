"""Opens a checkpoint's files by their path: a local folder, or a folder of a bucket."""

from __future__ import annotations

from pathlib import Path

from models.checkpoint.files import Files, LocalFiles
from models.checkpoint.gcs import GcsFiles, is_gcs


def files_of(path: str) -> Files:
    """The files of the version at this path, local or in a bucket."""
    return GcsFiles(path) if is_gcs(path) else LocalFiles(Path(path))
