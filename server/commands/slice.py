"""`antipode slice`: says what the server would run on, as lines or as JSON.

It asks the sources that the server asks, and refuses what the server refuses. Devices that another
process holds are left out, and that is said.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from models.checkpoint.checkpoint import CheckpointError
from server.config import EngineConfig
from server.slice.discovery import ask_jax, find_slice
from server.slice.group import find_group
from server.slice.resolve import Slice
from server.slice.sources import Devices, SliceMismatchError

DESCRIPTION = """\
Say which chips, hosts and network interfaces the server would run on, and how it would lay the
model over them. Takes the settings of `antipode serve`; exit code 1 where the slice is not what
they ask for, or the model cannot be laid as they say."""

# Of generations that are no TPU's.
_PLATFORMS = {"cpu": "cpu", "gpu": "gpu"}


def run(config: EngineConfig, *, as_json: bool) -> int:
    """Print the slice; the exit code."""
    try:
        is_several = find_group(config, os.environ).is_several
        found = find_slice(config, None if is_several else _devices())
    except SliceMismatchError as error:
        print(f"antipode slice: {error}", file=sys.stderr)
        return 1
    if is_several:
        _say("JAX is not asked, since it would wait for the other hosts")
    mesh, code = None, 0
    try:
        mesh = _mesh(config, found)
    except (CheckpointError, ValueError) as error:
        _say(f"no mesh: {_first_line(error)}")
        code = 1
    shown = describe(found, mesh)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(shown)).decode())
    else:
        print("\n".join(_lines(shown)))
    return code


def describe(found: Slice, mesh: dict[str, int] | None) -> dict[str, Any]:
    """The slice as JSON has it."""
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown | {"mesh": mesh}


def _devices() -> Devices | None:
    try:
        return ask_jax()
    except RuntimeError as error:
        _say(f"JAX cannot have the devices, does a server run on them? {_first_line(error)}")
        return None


def _mesh(config: EngineConfig, found: Slice) -> dict[str, int] | None:
    """How the server would lay the model; None where that cannot be told here.

    CheckpointError or ValueError for what the server would refuse to lay.
    """
    from models.hf_config import read_config
    from server.engine.programs.mesh_choice import choose_split
    from server.versions.served_model import ModelNotFoundError, find_model

    platform, chip_bytes = _PLATFORMS.get(found.generation, "tpu"), found.hbm_bytes_per_chip
    if platform == "tpu" and chip_bytes is None and not config.tensor_parallel_size:
        _say("no mesh: it depends on the chips' memory, which JAX did not say")
        return None
    try:
        model = read_config(find_model(config).path)
    except ModelNotFoundError as error:
        _say(f"no mesh: {_first_line(error)}")
        return None
    num_ranks, size = choose_split(model, config, platform, found.devices, chip_bytes)
    return {"data": num_ranks, "tensor": size, "idle": found.devices - num_ranks * size}


def _lines(shown: dict[str, Any]) -> list[str]:
    """One line a field, interfaces one line each."""
    plain = {key: value for key, value in shown.items() if key not in ("interfaces", "claim")}
    lines = [f"{key:<20}{_text(value)}" for key, value in plain.items()]
    lines += [f"{'interface':<20}{_text(interface)}" for interface in shown["interfaces"]]
    return [*lines, f"{'claim':<20}{_text(shown['claim'])}"]


def _text(value: object) -> str:
    match value:
        case None | "":
            return "unknown"
        case dict():
            known = {key: item for key, item in value.items() if item not in ("", None)}
            return " ".join(f"{key}={item}" for key, item in known.items())
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)


def _say(sentence: str) -> None:
    print(f"antipode slice: {sentence}", file=sys.stderr)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
