"""The manifest of a finished checkpoint folder: `antipode.json`, which is written last.

The manifest lists every other file with its size, its SHA-256 and the SHA-256 of its chunks, so
that a reader notices a torn or stale folder while it reads. It also holds golden prompts, which
check that the weights generate the expected tokens. Does not know what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.checkpoint.verified_reading import CHUNK_BYTES, FileSums

NAME = "antipode.json"
# The manifest of a terabyte of weights has about 5 MB.
MAX_BYTES = 64 << 20
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A prompt and the tokens that greedy generation must continue the prompt with."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """The tokens that the weights must generate. `tolerance` is in natural-log probability.

    Another token is accepted only if its log probability is within the tolerance of the expected
    token's.
    """

    tolerance: float
    prompts: tuple[GoldenPrompt, ...]


def write(folder: Path, golden: Golden | None = None) -> None:
    """Write a manifest of every file now in `folder`; on return everything is on the disk."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME]
    files = {path.relative_to(folder).as_posix(): _described(path) for path in paths}
    written = {"format": _FORMAT, "chunk_bytes": CHUNK_BYTES, "files": files}
    write_json(folder / NAME, written | ({"golden": asdict(golden)} if golden else {}))
    sync_folder(folder)


def read(folder: Path) -> dict[str, Any]:
    """The manifest; FileNotFoundError if there is none, ValueError for another format."""
    check_size((folder / NAME).stat().st_size, str(folder / NAME))
    return parse((folder / NAME).read_bytes(), str(folder / NAME))


def check_size(num_bytes: int, place: str) -> None:
    """ValueError with `place` for a file that is longer than any manifest: nobody reads it."""
    if num_bytes > MAX_BYTES:
        raise ValueError(f"{place} has {num_bytes} bytes; a manifest has at most {MAX_BYTES}")


def parse(content: bytes, place: str) -> dict[str, Any]:
    """The manifest from its file's content; ValueError with `place` if the content is invalid."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    match found:
        case {"format": format_, "files": dict()} as manifest if format_ == _FORMAT:
            return dict(manifest)
        case _:
            raise ValueError(f"{place} is not a manifest of format {_FORMAT}")


def sums(manifest: dict[str, Any]) -> dict[str, FileSums]:
    """The checksums of each file's chunks; an older manifest has them only for small files.

    Raises ValueError for an invalid entry.
    """
    if manifest.get("chunk_bytes", CHUNK_BYTES) != CHUNK_BYTES:
        raise ValueError(f"{NAME} lists chunks of another size than {CHUNK_BYTES} bytes")
    try:
        return {
            name: FileSums(entry["bytes"], tuple(entry.get("chunks") or [entry["sha256"]]))
            for name, entry in manifest["files"].items()
            if entry["bytes"] <= CHUNK_BYTES or entry.get("chunks")
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{NAME} has an entry without size or checksum: {error!r}") from error


def golden(manifest: dict[str, Any]) -> Golden | None:
    """The golden prompts, None if there are none; ValueError for an invalid entry."""
    try:
        match manifest.get("golden"):
            case None:
                return None
            case {"tolerance": float() | int() as tolerance, "prompts": list(prompts)}:
                return Golden(checked_tolerance(tolerance), _golden_prompts(prompts))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{NAME} has a golden prompt that is none: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{NAME} has golden prompts that cannot be used: {error}") from error
    raise ValueError(f"{NAME} has no tolerance and list of prompts under golden")


def checked_tolerance(value: float | str) -> float:
    """The tolerance; ValueError for infinity or no number, by which every token would pass."""
    tolerance = float(value)
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"the tolerance is {value}; it must be a finite number of at least 0")
    return tolerance


def _golden_prompts(entries: list[dict[str, Any]]) -> tuple[GoldenPrompt, ...]:
    """Every one asks the weights for a token: what asks for none, any weights would pass."""
    if not entries:
        raise ValueError("the list of prompts is empty; publish it again (antipode publish)")
    return tuple(
        GoldenPrompt(
            *(_token_ids(number, entry, name) for name in ("prompt_token_ids", "token_ids"))
        )
        for number, entry in enumerate(entries, 1)
    )


def _token_ids(number: int, entry: dict[str, Any], name: str) -> tuple[int, ...]:
    found = entry[name]
    is_list = isinstance(found, list) and found
    # A bool is an int, but no token.
    if not is_list or any(type(each) is not int or each < 0 for each in found):
        raise ValueError(f"{name} of prompt {number} must be a list of one token id or more")
    return tuple(found)


def _described(path: Path) -> dict[str, Any]:
    size, whole, chunks = path.stat().st_size, hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            whole.update(block)
            chunks.append(hashlib.sha256(block).hexdigest())
    described = {"bytes": size, "sha256": whole.hexdigest()}
    return described | ({"chunks": chunks} if len(chunks) > 1 else {})


def is_complete(folder: Path) -> bool:
    """Whether the folder has a manifest and every listed file with its listed size.

    Does not read the contents, because that takes as long as loading the weights.
    """
    try:
        files = read(folder)["files"].items()
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def verify(folder: Path) -> None:
    """Read every listed file; ValueError names the first that differs from the manifest."""
    for name, entry in read(folder)["files"].items():
        if sha256(folder / name) != entry["sha256"]:
            raise ValueError(f"{folder / name} does not have the checksum {NAME} lists for it")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON, and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
