"""One version of a model where it lies: manifest, small files copied here, weights to be read.

A mount may answer with old sizes, half a file or nothing at all, so nothing is opened in place:
everything is read in verified chunks, with time-outs. Knows no model.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models.checkpoint import manifest
from models.checkpoint.checkpoint import Checkpoint, CheckpointError
from models.checkpoint.files import Files
from models.checkpoint.headers import HeaderError, tensors_of
from models.checkpoint.json_files import JsonFileError, read_object
from models.checkpoint.module_files import is_module_file, module_files
from models.checkpoint.quantization_config import with_quantization
from models.checkpoint.verified_reading import CHUNK_BYTES, FileReader, ReadError, ReadLimits
from models.headless import is_headless
from models.quantized.scheme import QuantizationError, read_scheme
from models.tensor_names import INDEX, weight_files, write_names

# Everything that is no weights is read whole: configuration, tokenizer, index.
_WEIGHTS = ".safetensors"
_CONFIG = "config.json"
_MAX_SMALL_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """`copy` holds the small files; `is_published` tells that everything is verified."""

    copy: Path
    place: str
    reader: FileReader
    is_published: bool
    golden: manifest.Golden | None

    def read_everything(self) -> None:
        """Hold every byte to the manifest. Raises CheckpointError."""
        try:
            ranges = [(name, 0, self.reader.size(name)) for name in self.reader.names()]
            self.reader.read_ahead(ranges)
            for name, start, stop in ranges:
                for chunk in range(start, stop, CHUNK_BYTES):
                    self.reader.read(name, chunk, min(stop, chunk + CHUNK_BYTES))
        except ReadError as error:
            raise CheckpointError(str(error)) from error

    def checkpoint(self) -> Checkpoint:
        """The weights. Raises CheckpointError."""
        try:
            scheme = read_scheme(with_quantization(self.copy, read_object(self.copy / _CONFIG)))
        except FileNotFoundError:
            scheme = None
        except (JsonFileError, QuantizationError) as error:
            raise CheckpointError(str(error)) from error
        storages = () if scheme is None else scheme.storages
        has_head = not is_headless(self.copy)
        return Checkpoint(Path(self.place), self.reader, storages, has_head=has_head)


def open_version(files: Files, copy: Path, limits: ReadLimits | None = None) -> VersionFolder:
    """Read the manifest, hold every file's size to it, and copy the small files into `copy`.

    A folder without a manifest is taken as it is. Raises CheckpointError.
    """
    try:
        reader = FileReader(files, limits=limits)
        names = reader.names()
        if not names:
            raise CheckpointError(f"{files.place} is empty, or not there")
        if manifest.NAME not in names:
            _copy(reader, names, copy)
            _copy(reader, _module_files(reader, copy), copy)
            _copy_names(reader, copy)
            return VersionFolder(copy, files.place, reader, False, None)
        size = reader.size(manifest.NAME)
        manifest.check_size(size, reader.path(manifest.NAME))
        content = bytes(reader.read(manifest.NAME, 0, size))
        found = manifest.parse(content, reader.path(manifest.NAME))
        sums = manifest.sums(found)
        reader = FileReader(files, sums, limits)
        for name in found["files"]:
            reader.size(name)
        _copy(reader, found["files"], copy)
        (copy / manifest.NAME).write_bytes(content)
        _copy_names(reader, copy)
        return VersionFolder(copy, files.place, reader, True, manifest.golden(found))
    except ReadError as error:
        raise CheckpointError(str(error)) from error
    except ValueError as error:
        raise CheckpointError(f"{files.place}: {error}") from error


def _module_files(reader: FileReader, copy: Path) -> list[str]:
    """Those that `modules.json` names and that are there."""
    return [name for name in module_files(copy) if _is_there(reader, name)]


def _is_there(reader: FileReader, name: str) -> bool:
    try:
        reader.size(name)
    except ReadError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    return True


def _copy_names(reader: FileReader, copy: Path) -> None:
    """Tell the copy, which has no weights, the names of the tensors where no index does.

    What cannot be read is left to who loads it.
    """
    if INDEX in reader.names():
        return
    with suppress(HeaderError, ReadError):
        files = weight_files(reader.names())
        found = {file: tensors_of(Path(reader.path(file)), reader) for file in files}
        write_names(copy, {name: file for file in files for name, _ in found[file]})


def _copy(reader: FileReader, names: list[str] | dict[str, object], copy: Path) -> None:
    copy.mkdir(parents=True, exist_ok=True)
    for name in names:
        if Path(name).name != name and not is_module_file(name):
            raise CheckpointError(
                f"{reader.place}: {manifest.NAME} names {name!r}, which is no file"
            )
        size = reader.size(name)
        is_small = is_module_file(name) or not name.endswith(_WEIGHTS)
        if is_small and size <= _MAX_SMALL_BYTES:
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_bytes(reader.read(name, 0, size))
