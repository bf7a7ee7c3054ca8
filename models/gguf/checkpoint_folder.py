"""Converts a GGUF file into a checkpoint folder in the Hugging Face layout, all or nothing.

The conversion writes a folder next to the target and renames it when everything is on the disk. A
killed conversion continues where it stopped. If several processes convert one file, one of them
does the work and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm import tqdm

from models.checkpoint import manifest
from models.config import ModelConfigError
from models.gguf.architectures import architecture_of
from models.gguf.config import generation_config, model_config, stored_bits
from models.gguf.hf_tensors import Weight, weights
from models.gguf.reader import GgufError, GgufFile
from models.gguf.shards import write_shards
from models.gguf.tokenizer import tokenizer, tokenizer_config
from models.huggingface.config_file import parse_config

Progress = Callable[[str, float], None]

_log = logging.getLogger(__name__)

# Part of the name of an unfinished conversion: raise it when a file would convert differently.
_REVISION = 2
_SHARD_BYTES = 1 << 30


def convert(
    source: Path,
    target: Path,
    *,
    shard_bytes: int = _SHARD_BYTES,
    replace: bool = False,
    keeps_small: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Make the checkpoint folder `target` from the GGUF file `source`, unless it is there.

    `progress` gets the current activity and its progress from 0 to 1; a terminal shows a bar.
    The folder holds bfloat16. With `keeps_small`, a server keeps a quantized file's matrices in 8
    bits. Raises GgufError for a file that cannot be imported, and OSError from the disk. If
    `target` is not a whole checkpoint, raises FileExistsError or, with `replace`, removes it.
    """
    if manifest.is_complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f".{target.name}.lock")):
        if not manifest.is_complete(target):
            if target.exists():
                _remove(target, replace)
            _build(GgufFile(source), target, shard_bytes, keeps_small, progress)
    return target


def _remove(target: Path, replace: bool) -> None:
    if not replace:
        raise FileExistsError(f"{target} exists and is not a whole checkpoint: remove it")
    shutil.rmtree(target)


def _build(
    file: GgufFile,
    target: Path,
    shard_bytes: int,
    keeps_small: bool,
    progress: Progress | None,
) -> None:
    partial = _partial_folder(file, target, shard_bytes)
    architecture = architecture_of(file)
    config = model_config(file, architecture) | (stored_bits(file) if keeps_small else {})
    _check_servable(config)
    planned = weights(file, architecture, config)
    made = tokenizer(file)
    _log_sizes(file, planned)
    partial.mkdir(exist_ok=True)
    manifest.write_json(partial / "config.json", config)
    manifest.write_json(partial / "generation_config.json", generation_config(file))
    manifest.write_json(partial / "tokenizer_config.json", tokenizer_config(file))
    _write_tokenizer(made, partial)
    with _reported(f"converting {file.path.name}", planned, progress) as advance:
        write_shards(partial, planned, shard_bytes, advance)
    manifest.write(partial)
    partial.rename(target)
    manifest.sync_folder(target.parent)


def _log_sizes(file: GgufFile, planned: Sequence[Weight]) -> None:
    stored = sum(tensor.data.nbytes for tensor in file.tensors.values())
    wide = sum(weight.num_bytes for weight in planned)
    _log.info(
        "%s: %.2f GiB of weights become %.2f GiB of bfloat16 in the folder",
        file.path.name,
        stored / 2**30,
        wide / 2**30,
    )


def _check_servable(config: dict[str, Any]) -> None:
    """Refuse what the server would refuse, before gigabytes are written."""
    try:
        parse_config(config)
    except ModelConfigError as error:
        raise GgufError(f"the server could not serve this file: {error}") from error


def _write_tokenizer(made: Tokenizer, folder: Path) -> None:
    path = folder / "tokenizer.json"
    made.save(str(path))
    with path.open("rb") as saved:
        os.fsync(saved.fileno())


def _partial_folder(file: GgufFile, target: Path, shard_bytes: int) -> Path:
    """The working folder of this conversion; removes those that other conversions left."""
    identity = hashlib.sha256(file.header_bytes)
    stat = file.path.stat()
    identity.update(f"{stat.st_size} {stat.st_mtime_ns} {shard_bytes} {_REVISION}".encode())
    partial = target.with_name(f".{target.name}.{identity.hexdigest()[:16]}.partial")
    for other in target.parent.glob(f".{target.name}.*.partial"):
        if other != partial:
            shutil.rmtree(other)
    for torn in partial.glob("*.unfinished"):
        torn.unlink()
    return partial


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel releases the lock when the process ends in any way.

    The file stays: if it were removed, two processes could lock two files of one name.
    """
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _reported(
    detail: str, planned: Sequence[Weight], progress: Progress | None
) -> Iterator[Callable[[int], None]]:
    total = sum(weight.num_bytes for weight in planned)
    done = 0
    # disable=None: no bar unless stderr is a terminal.
    with tqdm(
        desc=detail, total=total, unit="B", unit_scale=True, disable=None, file=sys.stderr
    ) as bar:

        def advance(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            bar.update(num_bytes)
            if progress is not None:
                progress(detail, done / total)

        yield advance
