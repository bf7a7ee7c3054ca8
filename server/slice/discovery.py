"""Finds the slice of this process by asking every source.

Asking JAX takes the devices: on a TPU, no other process can have them at the same time. On a slice
of several hosts, JAX waits for all hosts.
"""

from __future__ import annotations

import os

from server.config.engine_config import EngineConfig
from server.slice.host_group import find_group
from server.slice.interfaces import read_interfaces
from server.slice.jax_platform import choose_platform
from server.slice.reported_slice import (
    Devices,
    describe_devices,
    read_claim,
    read_environment,
)
from server.slice.resolve import Slice, Sources, resolve


def ask_jax() -> Devices:
    """The devices of all hosts. Raises RuntimeError where JAX cannot take them."""
    choose_platform(os.environ)
    import jax

    return describe_devices(jax.devices(), jax.process_count(), jax.process_index())


def find_slice(config: EngineConfig, devices: Devices | None) -> Slice:
    """The slice according to the settings, this process's environment and the devices.

    Raises SliceMismatchError where two of them disagree.
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
