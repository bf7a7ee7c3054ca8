"""The weights on the device, one set per version: loads, exchanges and drops them.

All sets have the shapes that the programs were compiled for, so any set can be passed to them. The
caller decides which set is used, and when; nothing here runs a step.
"""

from __future__ import annotations

from dataclasses import replace

import jax

from models.calibration import Calibration
from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.version_folder import VersionFolder
from models.huggingface.config_file import read_config
from models.weights.loading import HostLeaves, Progress, WeightLoader
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.blueprint.blueprint import Blueprint


class WeightSets:
    """Sets of weights by version. One thread's steps read them; one other thread changes them."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._config = blueprint.config
        self._devices = blueprint.mesh.local_devices
        self._spans_hosts = blueprint.mesh.is_multi_process
        self._measures = blueprint.layout.scales_kv
        self._loader = WeightLoader(blueprint.model, blueprint.mesh)
        self._calibrate = Calibration(blueprint.model, blueprint.mesh)
        self._sets: dict[LoadedVersion, list[jax.Array]] = {}

    def __getitem__(self, version: LoadedVersion) -> list[jax.Array]:
        return self._sets[version]

    @property
    def host_bytes(self) -> int:
        """The host memory that staging a version takes, in bytes."""
        return self._loader.host_bytes

    def check(self, folder: VersionFolder) -> None:
        """CheckpointError unless the version has the served one's shape, by its files' headers."""
        self._check_config(folder)
        self._loader.check(folder.checkpoint())

    def load(self, version: LoadedVersion, folder: VersionFolder, progress: Progress) -> None:
        """Put a version next to the loaded ones. CheckpointError if its shape differs from theirs.

        Steps go on meanwhile. On several hosts nothing may come between their steps, so only the
        first set may run programs, in the same order on all hosts. Later sets are placed without a
        program.
        """
        self._check_fits()
        if self._spans_hosts and self._sets:
            if self._measures:
                raise CheckpointError(
                    "an int8 or fp8 KV cache needs a program to measure its units, and the hosts "
                    "of a slice would have to pause for that program: use swap_policy resource"
                )
            self._sets[version] = self._loader.place(self.stage(folder, progress))
            return
        self._check_config(folder)
        self._sets[version] = self._calibrate(self._loader.load(folder.checkpoint(), progress))

    def stage(self, folder: VersionFolder, progress: Progress) -> HostLeaves:
        """Read a version into host memory. CheckpointError if its shape is not the served one."""
        self._check_config(folder)
        return self._loader.stage(folder.checkpoint(), progress)

    def exchange(self, out: LoadedVersion, into: LoadedVersion, staged: HostLeaves) -> None:
        """Put the staged weights in the place of `out`, and stage those. No step may run."""
        leaves = self._sets.pop(out)
        self._loader.exchange(leaves, staged)
        self._sets[into] = self._calibrate(leaves)

    def drop(self, version: LoadedVersion) -> None:
        """Free a version's memory as soon as the last step that reads it has run."""
        self._sets.pop(version, None)

    def _check_config(self, folder: VersionFolder) -> None:
        found = read_config(folder.copy)
        if self._config.vision is None:
            found = replace(found, vision=None)
        if found == self._config:
            return
        names = [
            name
            for name in found.__dataclass_fields__
            if getattr(found, name) != getattr(self._config, name)
        ]
        raise CheckpointError(
            f"{folder.place} has another architecture or shape than the served model ("
            + ", ".join(
                f"{name} {getattr(found, name)}, not {getattr(self._config, name)}"
                for name in names
            )
            + "), so this server cannot change to it while it runs: start pods on it instead "
            "(helm upgrade with swap.mode=rollout, or antipode serve --model)"
        )

    def _check_fits(self) -> None:
        """Raises CheckpointError unless every device has room for one more set."""
        needed = self._loader.device_bytes
        for device in self._devices:
            stats = device.memory_stats() if device.platform != "cpu" else None
            if not stats or "bytes_limit" not in stats:
                continue
            free = stats["bytes_limit"] - stats["bytes_in_use"]
            if free < needed:
                raise CheckpointError(
                    f"a second set of weights takes {needed / 2**30:.2f} GiB per chip, but only "
                    f"{free / 2**30:.2f} GiB are free: start with swap_policy availability, which "
                    "keeps this room, or use swap_policy resource"
                )
