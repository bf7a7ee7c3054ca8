"""Reads published versions into the runner's weight sets, or into host memory, within its bounds.

What may take the place of what is served is decided here: published, whole, with golden prompts,
of the same architecture, shapes, tokenizer and pooling. When it takes that place is decided
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.checkpoint.location import files_of
from models.checkpoint.manifest import NAME as MANIFEST
from models.checkpoint.manifest import Golden
from models.checkpoint.sampling_defaults import GENERATION_CONFIG
from models.checkpoint.tokenizer_files import tokenizer_sums
from models.checkpoint.verified_reading import ReadLimits
from models.checkpoint.version_folder import VersionFolder, open_version
from models.weights.loading import HostLeaves
from server.engine.device.host_memory import available_bytes
from server.engine.device.weight_sets import WeightSets
from server.engine.policy.sequences.sequence import LoadedVersion
from server.files.temporary_folders import temporary_folder
from server.versions.version import UnpublishedError

_MAX_BUFFER_BYTES = 1 << 30
_LEAST_BUFFER_BYTES = 256 << 20


class CheckpointLoader:
    """`tokenizer` is that of what is served, `host_bytes` what loading may take of host memory.

    With `host_bytes` 0 that is half of what the machine and the container have to spare when a load
    begins.
    """

    def __init__(
        self,
        weights: WeightSets,
        tokenizer: dict[str, str],
        host_bytes: int,
        *,
        read_timeout: float = 30.0,
    ) -> None:
        self._weights, self._tokenizer, self._host_bytes = weights, tokenizer, host_bytes
        self._read_timeout = read_timeout

    def inspect(self, path: str) -> None:
        """Refuse what `load` would, as far as that shows without the memory for weights.

        A version must be published, have golden prompts, and have the shape and tokenizer of what
        is served. Its small files and the first piece of each file of weights must match their
        checksums. Raises as `load` does.
        """
        with self._open(path, _LEAST_BUFFER_BYTES) as (folder, _):
            self._weights.check(folder)

    def check_room(self, num_staged: int, num_leaving: int) -> None:
        """ValueError where host memory has no room to stage a version.

        So many are staged now, and so many of these leave before.
        """
        size = self._weights.host_bytes
        if self._host_bytes:
            usable = self._host_bytes - (num_staged - num_leaving) * size
        else:
            usable = (available_bytes() + num_leaving * size) // 2
        self._check_usable(usable)

    def load(self, version: LoadedVersion, path: str, progress: Callable[[float], None]) -> Golden:
        """Put a version on the device beside what is there; its golden prompts.

        Raises CheckpointError or ConfigError, and whatever `progress` raises.
        """
        with self._open(path, self._bytes()) as (folder, golden):
            self._weights.load(version, folder, lambda _, fraction: progress(fraction))
            return golden

    def stage(self, path: str, progress: Callable[[float], None]) -> tuple[HostLeaves, Golden]:
        """Read a version into host memory. Raises the same, and ValueError where it has no room."""
        usable = self._bytes()
        self._check_usable(usable)
        with self._open(path, usable - self._weights.host_bytes) as (folder, golden):
            return self._weights.stage(folder, lambda _, fraction: progress(fraction)), golden

    def exchange(self, out: LoadedVersion, into: LoadedVersion, staged: HostLeaves) -> None:
        """Put what is staged in the place of `out`, which is staged afterwards."""
        self._weights.exchange(out, into, staged)

    def forget(self, staged: HostLeaves) -> None:
        """Nothing to do: what is staged goes with `staged`."""

    def drop(self, version: LoadedVersion) -> None:
        """Free a version's weights."""
        self._weights.drop(version)

    def _check_usable(self, usable: int) -> None:
        if usable - self._weights.host_bytes < _LEAST_BUFFER_BYTES:
            raise ValueError(
                f"staging takes {self._weights.host_bytes / 2**30:.2f} GiB of host memory for "
                f"weights and {_LEAST_BUFFER_BYTES / 2**30:.2f} GiB to read them, but "
                f"{usable / 2**30:.2f} GiB may be used: raise swap_host_memory_bytes, or "
                "use swap_policy availability"
            )

    def _bytes(self) -> int:
        return self._host_bytes or available_bytes() // 2

    @contextmanager
    def _open(self, path: str, host_bytes: int) -> Iterator[tuple[VersionFolder, Golden]]:
        limits = ReadLimits(
            buffer_bytes=min(host_bytes, _MAX_BUFFER_BYTES), timeout_seconds=self._read_timeout
        )
        with temporary_folder("version") as copy:
            folder = open_version(files_of(path), copy, limits)
            yield folder, self._golden(folder)

    def _golden(self, folder: VersionFolder) -> Golden:
        """What a version must have to take the place of another; ValueError where it has not."""
        if not folder.is_published:
            raise UnpublishedError(
                f"{folder.place} has no {MANIFEST}, so it may be half written: publish it "
                "(antipode publish)"
            )
        if folder.golden is None:
            raise ValueError(
                f"{folder.place}/{MANIFEST} has no golden prompts by which the weights could be "
                "checked: publish it again (antipode publish)"
            )
        found = tokenizer_sums(folder.copy)
        if found != self._tokenizer:
            differing = sorted(
                name
                for name in found.keys() | self._tokenizer.keys()
                if found.get(name) != self._tokenizer.get(name)
            )
            is_sampling = differing == [GENERATION_CONFIG]
            what = "other sampling defaults" if is_sampling else "another tokenizer"
            raise ValueError(
                f"{folder.place} has {what} than what is served "
                f"({', '.join(differing)}), so this server cannot change to it while it runs: "
                "start pods on it instead (helm upgrade with swap.mode=rollout, or antipode serve "
                "--model)"
            )
        return folder.golden
