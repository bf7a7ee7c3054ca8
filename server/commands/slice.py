"""`antipode slice`: reports what the server would run on, as lines or as JSON.

It asks the same sources as the server, and refuses what the server refuses. Devices that another
process holds are left out, and the command says so.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from models.checkpoint.checkpoint import CheckpointError
from server.config.engine_config import EngineConfig
from server.slice.discovery import ask_jax, find_slice
from server.slice.group_secret import read_group_secret
from server.slice.host_group import find_group
from server.slice.reported_slice import Devices, SliceMismatchError
from server.slice.resolve import Slice

DESCRIPTION = """\
Report which chips, hosts and network interfaces the server would run on, and how it would split the
model over them. Takes the settings of `antipode serve`. The exit code is 1 if the slice is not the
one that the settings ask for, or if the model cannot be split as they ask."""

# The platforms of generations that are no TPU.
_PLATFORMS = {"cpu": "cpu", "gpu": "gpu"}


def run(config: EngineConfig, *, as_json: bool) -> int:
    """Print the slice. Returns the exit code."""
    try:
        group = find_group(config, os.environ)
        read_group_secret(config, group)
        is_several = group.is_several
        found = find_slice(config, None if is_several else _devices())
    except SliceMismatchError as error:
        print(f"antipode slice: {error}", file=sys.stderr)
        return 1
    if is_several:
        _say("JAX is not asked for devices, since it would wait for the other hosts")
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
    """The slice as it is printed in JSON."""
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown | {"mesh": mesh}


def _devices() -> Devices | None:
    try:
        return ask_jax()
    except RuntimeError as error:
        _say(f"JAX cannot take the devices; does a server run on them? {_first_line(error)}")
        return None


def _mesh(config: EngineConfig, found: Slice) -> dict[str, int] | None:
    """How the server would split the model; None where that is not known here.

    Raises CheckpointError or ValueError for a split that the server would refuse.
    """
    from models.huggingface.config_file import read_config
    from server.engine.programs.blueprint.mesh_choice import choose_split
    from server.versions.served_model import ModelNotFoundError, find_model

    platform, chip_bytes = _PLATFORMS.get(found.generation, "tpu"), found.hbm_bytes_per_chip
    if platform == "tpu" and chip_bytes is None and not config.tensor_parallel_size:
        _say("no mesh: the mesh depends on the chips' memory, which JAX did not report")
        return None
    try:
        model = read_config(find_model(config).path)
    except ModelNotFoundError as error:
        _say(f"no mesh: {_first_line(error)}")
        return None
    num_ranks, size = choose_split(model, config, platform, found.devices, chip_bytes)
    return {"data": num_ranks, "tensor": size, "idle": found.devices - num_ranks * size}


def _lines(shown: dict[str, Any]) -> list[str]:
    """One line per field and one line per interface."""
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
