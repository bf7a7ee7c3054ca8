"""How requests call the model, its versions and its adapters.

    model   model@3   model@canary   model:adapter   model@3:adapter@2   adapter   adapter@2

Pure text: whether there is such a model, version or adapter is `model_directory`'s.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelName:
    """The parts of a name. `version` is a number or a label; each None where the name has none."""

    version: str | None = None
    adapter: str | None = None
    adapter_version: str | None = None


def parse_model_name(name: str, model: str) -> ModelName:
    """The parts of `name` on a server of `model`. An empty name is the model's.

    A name that does not begin with the model's is an adapter's.
    """
    rest = name.removeprefix(model)
    if not name or not rest:
        return ModelName()
    if not name.startswith(model) or rest[0] not in "@:":
        return _with_adapter(None, name)
    version, colon, adapter = rest.partition(":")
    wanted = version[1:] if version else None
    return _with_adapter(wanted, adapter) if colon else ModelName(wanted)


def _with_adapter(version: str | None, text: str) -> ModelName:
    adapter, at, adapter_version = text.partition("@")
    return ModelName(version, adapter, adapter_version if at else None)


def stream_version(version: str, adapter: str | None, adapter_version: str) -> str:
    """What a stream reports as its version, so that a resumed stream names its adapter too."""
    return version if adapter is None else f"{version}+{adapter}@{adapter_version}"


def parse_stream_version(text: str) -> ModelName:
    """The parts of what a stream has reported as its version."""
    version, plus, adapter = text.partition("+")
    return _with_adapter(version, adapter) if plus else ModelName(version)
