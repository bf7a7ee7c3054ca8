"""The adapters of this host: all that are loaded in its memory, and some in slots on the device.

The caller decides which adapter has which slot, and when one comes or goes; nothing here runs a
step. One thread loads and drops, the step loop places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.checkpoint.files import Files
from models.lora.adapter_config import AdapterError
from models.lora.slot_values import Adapter, SlotValues, read_adapter, slot_bytes
from server.engine.device.host_memory import available_bytes
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.programs.blueprint.blueprint import Blueprint
from server.files.temporary_folders import temporary_folder


class AdapterSets:
    """`leaves` are the arrays of all slots, for the programs of the blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._config, self._layout = blueprint.config, blueprint.layout
        self._values: dict[LoadedAdapter, SlotValues] = {}
        self._set: Callable[..., Any]
        self.leaves: Any = ()

    def start(self, make: Callable[[], Any], set_slot: Callable[..., Any]) -> None:
        """Allocate the slots, by the compiled programs."""
        self.leaves, self._set = make(), set_slot

    def read(self, files: Files) -> Adapter:
        """Read an adapter into host memory. AdapterError or CheckpointError with the reason."""
        needed, free = slot_bytes(self._config, self._layout), available_bytes()
        if needed > free // 2:
            raise AdapterError(
                f"an adapter takes {needed / 2**20:.0f} MiB of host memory, of which"
                f" {free / 2**20:.0f} MiB are free: unload another adapter, or lower max_lora_rank"
            )
        with temporary_folder("adapter") as copy:
            return read_adapter(files, copy, self._config, self._layout)

    def keep(self, loaded: LoadedAdapter, adapter: Adapter) -> None:
        """From now on it can be placed."""
        self._values[loaded] = adapter.values

    def drop(self, loaded: LoadedAdapter) -> None:
        """Free its host memory. What a slot has of it stays until the slot gets another."""
        self._values.pop(loaded, None)

    def place(self, loaded: LoadedAdapter, number: int) -> None:
        """Put a loaded adapter into a slot, counted from 1, for the steps that follow."""
        self.leaves = self._set(self.leaves, np.int32(number - 1), self._values[loaded])
