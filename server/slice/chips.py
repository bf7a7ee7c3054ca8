"""How the chips are used, read now and then on a thread of its own: memory and how busy they are.

For people and dashboards; a minute old, it is nothing to route by. Memory comes from JAX inside
this process, duty cycles from the TPU's runtime, TensorCore utilization from its SDK. Other
platforms have no source, and say so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from server.slice.resolve import Slice
from server.slice.tensorcore import TensorCoreReader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipUse:
    """Of one host, empty where there is no source.

    `hbm_used` and `hbm_limit` are bytes by device; `duty_cycle` is 0 to 1 by chip, and
    `tensorcore_utilization` by TensorCore.
    """

    hbm_used: Mapping[int, int] = field(default_factory=dict)
    hbm_limit: Mapping[int, int] = field(default_factory=dict)
    duty_cycle: Mapping[int, float] = field(default_factory=dict)
    tensorcore_utilization: Mapping[int, float] = field(default_factory=dict)


class ChipMonitor:
    """Reads every `interval` seconds from `start` to `stop`, the first time after one of them.

    `tell` is given each answer, by the reading thread. A `read` that takes long or fails delays or
    spoils the next answer and nothing else.
    """

    def __init__(
        self,
        read: Callable[[], ChipUse],
        interval: float,
        tell: Callable[[ChipUse], None],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._read, self._interval, self._tell, self._close = read, interval, tell, close
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="chips", daemon=True).start()

    def stop(self) -> None:
        """Read no more, and end a read that is under way; does not wait for it."""
        self._stopped.set()
        self._close()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                use = self._read()
            except Exception:
                _log.warning("chips could not be read", exc_info=True)
                use = ChipUse()
            self._tell(use)


def monitor_of(
    found: Slice | None, interval: float, tell: Callable[[ChipUse], None]
) -> ChipMonitor | None:
    """The monitor for a slice, not started; None where nothing can be read, or `interval` is 0."""
    if found is None or found.generation in ("", "cpu") or not interval:
        return None
    if found.generation == "gpu":
        return ChipMonitor(read_memory, interval, tell)
    # gRPC in the engine's process is needed for this alone.
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

    return ChipMonitor(read, interval, tell, close)


def read_memory() -> ChipUse:
    """Memory of this host's devices, as far as JAX knows it."""
    import jax

    used, limit = {}, {}
    for number, device in enumerate(jax.local_devices()):
        stats = device.memory_stats() or {}
        if "bytes_in_use" in stats and "bytes_limit" in stats:
            used[number], limit[number] = stats["bytes_in_use"], stats["bytes_limit"]
    return ChipUse(hbm_used=used, hbm_limit=limit)
