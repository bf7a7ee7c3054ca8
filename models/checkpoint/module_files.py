"""The files of a checkpoint that lie in folders of their own: those of modules for embeddings.

sentence-transformers names the folders in `modules.json`: a pooling has a configuration, a dense
layer has weights too. Does not know what the files say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

_MODULES = "modules.json"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# The files that each type of module has.
_FILES: Mapping[str, tuple[str, ...]] = {"Pooling": (_CONFIG,), "Dense": (_CONFIG, _WEIGHTS)}


def module_files(folder: Path) -> list[str]:
    """The files that the folder's `modules.json` asks for, whether they are there or not.

    Empty for a `modules.json` that is missing, or that whoever follows it will refuse.
    """
    try:
        modules = json.loads((folder / _MODULES).read_text(encoding="utf-8"))
        names = [f"{each['path']}/{file}" for each in modules for file in _files_of(each)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return list(filter(is_module_file, names))


def is_module_file(name: str) -> bool:
    """Whether the name is that of a module's file one folder down, and leads nowhere else."""
    parts = name.split("/")
    return len(parts) == 2 and parts[1] in (_CONFIG, _WEIGHTS) and parts[0] not in ("", ".", "..")


def _files_of(module: dict[str, str]) -> tuple[str, ...]:
    return _FILES.get(module["type"].rpartition(".")[2], ())
