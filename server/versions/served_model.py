"""Which checkpoint is served, and under which name and version.

A model is a folder, a version of it a folder inside whose name is an integer; a checkpoint is a
folder with a config.json. This module looks at names only; it opens no weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.gcs import SCHEME, GcsError, GcsFiles, is_gcs
from models.checkpoint.version_folder import open_version
from server.config.engine_config import EngineConfig
from server.versions.model_file.model_file import (
    ModelFileError,
    is_version,
    parse_model_config,
    read_model_file,
)

DEMO_MODEL = "smollm2-135m-instruct"


class ModelNotFoundError(Exception):
    """There is no checkpoint to serve at the place that was named; the message says what is."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A checkpoint's folder and what it is served as; `version` is "" where the path names none.

    Of a checkpoint in a bucket, at `uri`, the folder holds a copy of all but the weights.
    """

    path: Path
    name: str
    version: str
    uri: str = ""

    @property
    def source(self) -> str:
        """Where its weights are read from."""
        return self.uri or str(self.path)


def find_model(config: EngineConfig) -> ServedModel:
    """Find the checkpoint that `config.model` names, and its served name.

    A path wins over a name; of a folder of versions the highest is taken. ModelNotFoundError when
    neither leads to a folder with a config.json.
    """
    if is_gcs(config.model):
        served = _served(_copy_of(config), config.served_model_name)
        return replace(served, uri=config.model.rstrip("/"))
    candidates = [Path(config.model), Path(config.model_root) / config.model]
    candidates += [folder / config.model for folder in _embedded_model_folders()]
    for candidate in candidates:
        if (checkpoint := _checkpoint_in(candidate)) is not None:
            return _served(checkpoint.resolve(), config.served_model_name)
    if Path(config.model).is_dir():
        raise ModelNotFoundError(
            f"{config.model} holds neither a config.json nor a version's folder"
        )
    if config.model_config:
        raise ModelNotFoundError(
            f"{config.model_config} asks for {config.model}, which is not there: publish it "
            "(antipode publish), or name another version"
        )
    raise ModelNotFoundError(
        f"model {config.model!r} is neither a folder nor a model in {config.model_root}; "
        f"embedded models are {DEMO_MODEL} and tiny"
    )


def prepare_model(config: EngineConfig) -> ServedModel:
    """`find_model`, after converting the demo model or copying a bucket's small files here."""
    if is_gcs(config.model):
        try:
            shutil.rmtree(_copy_of(config), ignore_errors=True)
            open_version(GcsFiles(config.model), _copy_of(config))
        except (CheckpointError, GcsError) as error:
            raise ModelNotFoundError(str(error)) from error
    if config.model == DEMO_MODEL and not Path(config.model).exists():
        # The conversion needs packages that serving a checkpoint does not.
        from models.demo import DemoModelError, ensure

        try:
            ensure(Path(config.model_root))
        except DemoModelError as error:
            raise ModelNotFoundError(str(error)) from error
    return find_model(config)


def follow_model_config(config: EngineConfig) -> tuple[EngineConfig, bytes]:
    """The settings with what the model configuration file says in place of theirs, if there is one.

    Also the file's content, empty without a file. ModelNotFoundError for a file that cannot be
    followed.
    """
    if not config.model_config:
        return config, b""
    try:
        content = read_model_file(Path(config.model_config))
        file = parse_model_config(content)
        followed = replace(
            config,
            model=file.path_of(file.wanted_version()),
            served_model_name=file.name,
            swap_policy=file.swap_policy or config.swap_policy,
        )
    except ModelFileError as error:
        raise ModelNotFoundError(
            f"the model configuration file {config.model_config} cannot be followed: {error}"
        ) from error
    return followed, content


def _copy_of(config: EngineConfig) -> Path:
    """Where the small files of a checkpoint in a bucket are kept."""
    return Path(config.model_root) / "gs" / config.model.removeprefix(SCHEME).strip("/")


def _embedded_model_folders() -> list[Path]:
    spec = find_spec("models")
    return [Path(path) for path in (spec and spec.submodule_search_locations) or ()]


def _checkpoint_in(folder: Path) -> Path | None:
    """The folder itself, or its highest version, whichever is a checkpoint."""
    if (folder / "config.json").is_file():
        return folder
    if not folder.is_dir():
        return None
    versions = [entry for entry in folder.iterdir() if is_version(entry.name)]
    checkpoints = [entry for entry in versions if (entry / "config.json").is_file()]
    return max(checkpoints, key=lambda entry: int(entry.name), default=None)


def _served(path: Path, name: str) -> ServedModel:
    if is_version(path.name) and path.parent.name:
        return ServedModel(path, name or path.parent.name, path.name)
    return ServedModel(path, name or path.name, "")
