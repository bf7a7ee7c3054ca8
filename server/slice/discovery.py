"""Finds the slice of this process by asking every source there is.

Asking JAX takes the devices: on a TPU another process cannot have them at the same time, and on a
slice of several hosts it waits for all of them.
"""

from __future__ import annotations

import os

from server.config import EngineConfig
from server.slice.group import find_group
from server.slice.interfaces import read_interfaces
from server.slice.jax_platform import choose_platform
from server.slice.resolve import Slice, Sources, resolve
from server.slice.sources import (
    Devices,
    describe_devices,
    read_claim,
    read_environment,
)


def ask_jax() -> Devices:
    """The devices of all hosts; RuntimeError where JAX cannot have them."""
    choose_platform(os.environ)
    import jax

    return describe_devices(jax.devices(), jax.process_count(), jax.process_index())


def find_slice(config: EngineConfig, devices: Devices | None) -> Slice:
    """The slice as the settings, this process's environment and its devices have it.

    Raises SliceMismatchError.
    """
    return resolve(
        Sources(
            devices=devices,
            environment=read_environment(os.environ),
            claim=read_claim(config),
            interfaces=read_interfaces(),
            group=find_group(config, os.environ),
        )
    )
