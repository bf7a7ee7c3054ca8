"""What adapters are called, and where they lie: next to the model's versions, unless a path says.

`<model>/adapters/<name>/<version>` holds a version of an adapter, and `<model>/adapters/<name>` an
adapter without versions. Looks at names only; it opens no weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from models.checkpoint.gcs import GcsFiles, is_gcs
from models.checkpoint.location import files_of
from models.lora.adapter_config import CONFIG_NAME
from server.versions.model_file.model_file import is_version
from server.versions.served_model import ServedModel

FOLDER = "adapters"
# No comma, which separates names in a metric, and nothing that separates parts of a model's name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class AdapterNameError(ValueError):
    """An adapter cannot have this name, or is not there; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class AdapterPlace:
    """Where an adapter is read from. `version` is "" for a folder without versions."""

    name: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """An adapter to load: of a version or the newest one (None), or from a path."""

    name: str
    version: str | None = None
    path: str = ""


def parse_adapters(text: str) -> list[WantedAdapter]:
    """The adapters of a setting: NAME, NAME@VERSION or NAME=PATH, comma-separated."""
    wanted = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    names = [each.name for each in wanted]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AdapterNameError(f"adapter {twice} is named twice")
    return wanted


def _parse(text: str) -> WantedAdapter:
    name, equals, path = text.partition("=")
    if path:
        return WantedAdapter(check_name(name), path=path)
    name, at, version = text.partition("@")
    if equals or (at and not is_version(version)):
        raise AdapterNameError(f"{text!r} must be NAME, NAME@VERSION with a number, or NAME=PATH")
    return WantedAdapter(check_name(name), version or None)


def check_name(name: str) -> str:
    """The name. AdapterNameError for one that requests and metrics could not spell."""
    if not _NAME.fullmatch(name):
        raise AdapterNameError(
            f"{name[:200]!r} cannot be an adapter's name: use letters, digits, dot, dash and"
            " underscore, at most 128"
        )
    return name


def find_adapter(wanted: WantedAdapter, model: ServedModel) -> AdapterPlace:
    """Where an adapter is read from. AdapterNameError if it is not there; OSError."""
    check_name(wanted.name)
    if wanted.name == model.name:
        raise AdapterNameError(f"adapter {wanted.name} has the model's name; requests could not")
    if wanted.version is not None and not is_version(wanted.version):
        raise AdapterNameError(
            f"version {wanted.version[:60]!r} of adapter {wanted.name} is no whole number without"
            " leading zeros; leave it out for the newest"
        )
    if wanted.path:
        version = wanted.path.rstrip("/").rpartition("/")[2]
        of_path = version if is_version(version) else ""
        return AdapterPlace(wanted.name, wanted.version or of_path, wanted.path)
    folder = f"{_adapters_of(model)}/{wanted.name}"
    if wanted.version is not None:
        return AdapterPlace(wanted.name, wanted.version, f"{folder}/{wanted.version}")
    if versions := [each for each in _folders(folder) if is_version(each)]:
        newest = max(versions, key=int)
        return AdapterPlace(wanted.name, newest, f"{folder}/{newest}")
    if CONFIG_NAME in _files(folder):
        return AdapterPlace(wanted.name, "", folder)
    raise AdapterNameError(
        f"there is no adapter {wanted.name}: {folder} holds neither a version's folder nor a"
        f" {CONFIG_NAME}"
    )


def _adapters_of(model: ServedModel) -> str:
    """The folder of all adapters: next to the versions, or inside a checkpoint without a number."""
    source = model.source.rstrip("/")
    root = source.rpartition("/")[0] if model.version else source
    return f"{root}/{FOLDER}"


def _folders(folder: str) -> list[str]:
    if is_gcs(folder):
        return GcsFiles(folder).folders()
    path = Path(folder)
    return [each.name for each in path.iterdir() if each.is_dir()] if path.is_dir() else []


def _files(folder: str) -> list[str]:
    if not is_gcs(folder) and not Path(folder).is_dir():
        return []
    return files_of(folder).names()
