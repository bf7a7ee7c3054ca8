"""The whole configuration of one server, and all its settings as a table.

Flags, variables, the reference in the docs and the charts' schema are made from this table. Knows
no setting by name.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from server.config.engine_config import EngineConfig
from server.config.server_config import ServerConfig
from server.config.setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one server."""

    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    server: ServerConfig = dataclasses.field(default_factory=ServerConfig)


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the dataclasses."""
    sections: list[tuple[Literal["engine", "server"], type]] = [
        ("engine", EngineConfig),
        ("server", ServerConfig),
    ]
    for section, cls in sections:
        types = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            yield Setting(section, field.name, types[field.name], field.default, **field.metadata)
