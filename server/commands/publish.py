"""`antipode publish` and `antipode verify`: make a version from a checkpoint, and check a version.

A version is a folder with a checkpoint that was loaded once, golden prompts that its own weights
continued, and `antipode.json`, written last. Publishing never overwrites. Nothing here serves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from models.checkpoint import manifest
from models.checkpoint.files import LocalFiles
from models.checkpoint.gcs import GcsFiles, is_gcs
from models.checkpoint.module_files import module_files
from models.checkpoint.version_folder import VersionFolder, open_version
from models.config import ModelConfigError
from server.config.engine_config import EngineConfig
from server.versions.model_file.model_file import is_version

PUBLISH = """Make SRC, a checkpoint directory or a GGUF file, the version DIR/<model>/<version>.

The checkpoint is loaded and continues golden prompts. Every server uses these prompts to check the
weights before it serves them. An existing version is never overwritten."""
VERIFY = "Check that a published version is whole: sizes, checksums, configuration, tensor shapes."

_TEXTS = (
    "The model that answers here is the one that was published.",
    "def add(a, b):\n    return",
    "Once upon a time there was a lighthouse",
    "1, 2, 3, 5, 8, 13,",
)


class PublishError(Exception):
    """A version that cannot be published or is not whole; the message says why."""


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint directory or a .gguf file")
    parser.add_argument(
        "target",
        metavar="DIR",
        help="the new version's folder or gs://BUCKET/FOLDER, ending in <model>/<version>",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.1,
        help="how much more likely than a golden token another token may be that a server generates"
        " in its place, as a difference of natural logarithms (default: 0.1)",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="golden prompts, one per line; by default four short texts",
    )


def _tolerance(text: str) -> float:
    try:
        return manifest.checked_tolerance(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run_publish(arguments: argparse.Namespace) -> int:
    """Publish. Returns the exit code."""
    return _explained(lambda: _publish_as_asked(arguments))


def _publish_as_asked(arguments: argparse.Namespace) -> str:
    texts = _read_texts(Path(arguments.prompts)) if arguments.prompts else _TEXTS
    source, target = Path(arguments.source), arguments.target
    if is_gcs(target):
        return publish_to_bucket(source, target, texts, arguments.tolerance)
    return publish(source, Path(target), texts, arguments.tolerance)


def _read_texts(path: Path) -> tuple[str, ...]:
    """The lines that are not empty. Raises PublishError: servers refuse a version without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PublishError(f"the golden prompts in {path} cannot be read: {error}") from error
    if texts := tuple(line for line in lines if line.strip()):
        return texts
    raise PublishError(f"{path} has no golden prompt; write at least one, each in a line")


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify. Returns the exit code."""
    return _explained(lambda: verify(arguments.path))


def publish(
    source: Path, target: Path, texts: tuple[str, ...] = _TEXTS, tolerance: float = 0.1
) -> str:
    """Write `source` as the version `target`. Returns one sentence. Raises PublishError."""
    if not is_version(target.name):
        raise PublishError(
            f"{target}: the name of a version's folder must be a whole number, "
            f"and it is {target.name!r}"
        )
    if target.exists():
        raise PublishError(
            f"{target} exists already; a version is never overwritten, so choose another number"
        )
    # After the refusals: it takes seconds to import.
    from server.commands.golden_prompts import make_golden

    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy(source, partial)
        golden = make_golden(partial, texts, tolerance)
        manifest.write(partial, golden)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    manifest.sync_folder(target.parent)
    return f"published {target}, with {len(golden.prompts)} golden prompts"


def publish_to_bucket(source: Path, target: str, texts: tuple[str, ...], tolerance: float) -> str:
    """Publish to a bucket: make the version here, then upload it, the manifest last.

    Returns one sentence. Raises PublishError.
    """
    bucket = GcsFiles(target)
    if bucket.names():
        raise PublishError(
            f"{target} exists already; a version is never overwritten, so choose another number"
        )
    with tempfile.TemporaryDirectory(prefix="antipode-publish-") as folder:
        made = Path(folder) / target.rstrip("/").rpartition("/")[2]
        publish(source, made, texts, tolerance)
        bucket.upload(made)
    return f"published {target}"


def verify(path: str) -> str:
    """Check a version against its manifest. Returns one sentence. Raises PublishError."""
    with tempfile.TemporaryDirectory(prefix="antipode-verify-") as copy:
        version = open_version(
            GcsFiles(path) if is_gcs(path) else LocalFiles(Path(path)), Path(copy)
        )
        if not version.is_published:
            raise PublishError(
                f"{path} has no {manifest.NAME}: it was not published, or publishing did not finish"
            )
        version.read_everything()
        _check_loads(version)
    count = len(version.golden.prompts) if version.golden else 0
    return f"{path} is whole, with {count} golden prompts"


def _copy(source: Path, partial: Path) -> None:
    """Copy a checkpoint directory, or convert a GGUF file."""
    if source.suffix == ".gguf":
        from models.gguf import convert

        convert(source, partial)
        (partial / manifest.NAME).unlink()
        return
    if not (source / "config.json").is_file():
        raise PublishError(f"{source} is neither a .gguf file nor a folder with a config.json")
    partial.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != manifest.NAME and not path.name.startswith("."):
            shutil.copyfile(path, partial / path.name)
    for name in module_files(source):
        if not (source / name).is_file():
            continue
        (partial / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, partial / name)


def _check_loads(version: VersionFolder) -> None:
    """Check the configuration, the tokenizer, and each tensor's presence and shape; no weights."""
    from models.huggingface.config_file import read_config
    from models.sharding import make_mesh
    from models.weights.loading import WeightLoader, abstract_decoder
    from server.api.tokenizers.tokenizer import Tokenizer
    from server.engine.programs.blueprint.blueprint import choose_layout

    Tokenizer.load(version.copy)
    config = read_config(version.copy)
    mesh = make_mesh(config, 1)
    platform = mesh.devices.flat[0].platform
    model = abstract_decoder(config, choose_layout(config, EngineConfig(), platform, 1))
    WeightLoader(model, mesh).check(version.checkpoint())


def _explained(act: Any) -> int:
    try:
        print(act())
    except (PublishError, ModelConfigError, ValueError, OSError) as error:
        print(f"antipode: {error}", file=sys.stderr)
        return 1
    return 0
