"""The one kind of file of a checkpoint that lies in a folder of its own: a pooling module's config.

sentence-transformers names the folder in `modules.json`. Does not know what the file says.
"""

from __future__ import annotations

import json
from pathlib import Path

_MODULES = "modules.json"
_CONFIG = "config.json"


def pooling_files(folder: Path) -> list[str]:
    """The configurations that the folder's `modules.json` asks for, whether they are there or not.

    Empty for a `modules.json` that is missing, or that whoever follows it will refuse.
    """
    try:
        modules = json.loads((folder / _MODULES).read_text(encoding="utf-8"))
        names = [f"{each['path']}/{_CONFIG}" for each in modules if _is_pooling(each)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return list(filter(is_pooling_file, names))


def is_pooling_file(name: str) -> bool:
    """Whether the name is that of a config.json one folder down, and leads nowhere else."""
    parts = name.split("/")
    return len(parts) == 2 and parts[1] == _CONFIG and parts[0] not in ("", ".", "..")


def _is_pooling(module: dict[str, str]) -> bool:
    return module["type"].rpartition(".")[2] == "Pooling"
