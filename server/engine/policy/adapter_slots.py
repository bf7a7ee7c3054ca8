"""Which adapters requests may name, and which of them have a slot on the device.

A running sequence with an adapter holds its slot. A slot that nobody holds keeps its adapter until
another needs the slot; the one that was used least recently goes first. Belongs to the step loop;
other threads may read what is marked so. Knows neither weights nor who runs next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from server.engine.policy.admission import AdmissionError
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter, Placement


class AdapterSlots:
    """`num_slots` slots, numbered from 1. All data ranks share one object.

    `on_gone` is called when nobody can use a loading any more.
    """

    def __init__(self, num_slots: int = 0) -> None:
        self.num_slots = num_slots
        self.on_gone: Callable[[LoadedAdapter], None] = lambda adapter: None
        self._open: dict[str, LoadedAdapter] = {}
        self._free = list(range(num_slots, 0, -1))
        # In the order in which the adapters were given their slots.
        self._resident: dict[LoadedAdapter, int] = {}
        # Of the resident adapters that nobody holds: least recently used first.
        self._idle: dict[LoadedAdapter, None] = {}
        self._holders: Counter[LoadedAdapter] = Counter()
        self._users: Counter[LoadedAdapter] = Counter()
        self._closing: dict[Hashable, LoadedAdapter] = {}
        self._placements: list[Placement] = []

    # Which adapters there are.

    def open(self, adapter: LoadedAdapter) -> None:
        """Requests that name it get this loading, in place of one before."""
        before = self._open.get(adapter.name)
        self._open = {**self._open, adapter.name: adapter}
        if before is not None:
            self._forget_unused(before)

    def close(self, name: str) -> bool:
        """No request may name it any more; requests that did go on. Whether one could."""
        closed = self._open.get(name)
        self._open = {each: of for each, of in self._open.items() if each != name}
        if closed is not None:
            self._forget_unused(closed)
        return closed is not None

    def find(self, name: str | None, version: str | None = None) -> LoadedAdapter | None:
        """The adapter that a request names, None where it names none.

        AdmissionError for one that is not loaded here, or not in this version.
        """
        if name is None:
            return None
        found = self._open.get(name)
        if found is None or version not in (None, found.version):
            wanted = name if version is None else f"{name}@{version}"
            raise AdmissionError("not_found", f"adapter {wanted} is not loaded here")
        return found

    # Who uses them.

    def begin(self, adapter: LoadedAdapter | None) -> None:
        """A request's choice was taken in; it may have to wait."""
        if adapter is not None:
            self._users[adapter] += 1

    def end(self, adapter: LoadedAdapter | None) -> None:
        """A choice has ended, in whatever state."""
        if adapter is not None:
            _decrease(self._users, adapter)
            self._forget_unused(adapter)

    # Who has a slot.

    def begin_pass(self, scheduler: Hashable) -> None:
        """A scheduler begins to choose: it reserves nothing for those that wait."""
        self._closing.pop(scheduler, None)

    def may_start(self, adapter: LoadedAdapter | None, scheduler: Hashable) -> bool:
        """Whether a sequence that waits could hold its adapter's slot now.

        Asked in the order of the turns. For the first that could not, no sequence behind it may
        hold the adapter that has had a slot for longest, so that this slot becomes free.
        """
        if adapter is None:
            return True
        if adapter in self._closing.values():
            return False
        if adapter in self._resident or self._free or self._idle:
            return True
        if scheduler not in self._closing:
            self._closing[scheduler] = next(iter(self._resident))
        return False

    def hold(self, adapter: LoadedAdapter | None) -> int:
        """The number of the slot for a sequence that may start; 0 without an adapter."""
        if adapter is None:
            return 0
        if adapter not in self._resident:
            self._give(adapter)
        self._idle.pop(adapter, None)
        self._holders[adapter] += 1
        return self._resident[adapter]

    def release(self, adapter: LoadedAdapter | None) -> None:
        """A sequence that held its adapter's slot runs no more."""
        if adapter is None:
            return
        _decrease(self._holders, adapter)
        if adapter not in self._holders:
            self._idle[adapter] = None

    def take_placements(self) -> tuple[Placement, ...]:
        """The adapters that must be put into slots before the next step, in this order."""
        taken, self._placements = tuple(self._placements), []
        return taken

    # From any thread.

    @property
    def opened(self) -> tuple[LoadedAdapter, ...]:
        """The adapters that requests may name."""
        return tuple(self._open.values())

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the adapters that running sequences hold."""
        return _names(self._holders)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The names of the adapters of choices that wait."""
        users, holders = dict(self._users), dict(self._holders)
        return _names({each: 0 for each, count in users.items() if count > holders.get(each, 0)})

    def _forget_unused(self, adapter: LoadedAdapter) -> None:
        """Free the slot of an adapter that requests can neither name nor use."""
        if adapter in self._users or self._open.get(adapter.name) == adapter:
            return
        self._idle.pop(adapter, None)
        if adapter in self._resident:
            self._free.append(self._resident.pop(adapter))
        self.on_gone(adapter)

    def _give(self, adapter: LoadedAdapter) -> None:
        """Give `adapter` a free slot, or that of the adapter that was used least recently."""
        if not self._free:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._free.append(self._resident.pop(oldest))
        number = self._resident[adapter] = self._free.pop()
        self._placements.append((adapter, number))


def _decrease(counts: Counter[LoadedAdapter], adapter: LoadedAdapter) -> None:
    counts[adapter] -= 1
    if not counts[adapter]:
        del counts[adapter]


def _names(adapters: dict[LoadedAdapter, int]) -> tuple[str, ...]:
    return tuple(sorted({each.name for each in tuple(adapters)}))
