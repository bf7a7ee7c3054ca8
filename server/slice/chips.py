"""Reads how the chips are used, on a thread of its own: their memory and how busy they are.

The numbers are for people and dashboards. They may be a minute old, so nothing routes by them.
Memory comes from JAX inside this process, duty cycles come from the TPU's runtime, and TensorCore
utilization comes from the TPU's SDK. Other platforms have no such source.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from server.slice.resolve import Slice
from server.slice.tensorcore import TensorCoreReader
from server.threads import guarded

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipUse:
    """How the chips of one host are used; empty where there is no source.

    `hbm_used` and `hbm_limit` are bytes by device. `duty_cycle` is 0 to 1 by chip.
    `tensorcore_utilization` is 0 to 1 by TensorCore.
    """

    hbm_used: Mapping[int, int] = field(default_factory=dict)
    hbm_limit: Mapping[int, int] = field(default_factory=dict)
    duty_cycle: Mapping[int, float] = field(default_factory=dict)
    tensorcore_utilization: Mapping[int, float] = field(default_factory=dict)


class ChipMonitor:
    """Reads every `interval` seconds from `start` to `stop`, first after one interval.

    The reading thread calls `report` with each result. A `read` that is slow or fails affects only
    its own result.
    """

    def __init__(
        self,
        read: Callable[[], ChipUse],
        interval: float,
        report: Callable[[ChipUse], None],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._read, self._interval, self._report, self._close = read, interval, report, close
        self._stopped = threading.Event()

    def start(self) -> None:
        guarded(self._run, "chips").start()

    def stop(self) -> None:
        """Stop reading, and end a read that is under way; does not wait for its end."""
        self._stopped.set()
        self._close()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                use = self._read()
            except Exception:
                _log.warning("chips could not be read", exc_info=True)
                use = ChipUse()
            self._report(use)


def monitor_of(
    found: Slice | None, interval: float, report: Callable[[ChipUse], None]
) -> ChipMonitor | None:
    """The monitor for a slice, not started; None where no source exists or `interval` is 0."""
    if found is None or found.generation in ("", "cpu") or not interval:
        return None
    if found.generation == "gpu":
        return ChipMonitor(read_memory, interval, report)
    # Imported here: nothing else in the engine's process needs gRPC.
    from server.slice.libtpu import LibtpuClient

    runtime, sdk = LibtpuClient(), TensorCoreReader()

    def read() -> ChipUse:
        return replace(
            read_memory(),
            duty_cycle=runtime.duty_cycles(),
            tensorcore_utilization=sdk.utilizations(),
        )

    def close() -> None:
        runtime.close()
        sdk.close()

    return ChipMonitor(read, interval, report, close)


def read_memory() -> ChipUse:
    """The memory of this host's devices, as far as JAX reports it."""
    import jax

    used, limit = {}, {}
    for number, device in enumerate(jax.local_devices()):
        stats = device.memory_stats() or {}
        if "bytes_in_use" in stats and "bytes_limit" in stats:
            used[number], limit[number] = stats["bytes_in_use"], stats["bytes_limit"]
    return ChipUse(hbm_used=used, hbm_limit=limit)
