"""Snapshots of recurrent states: which prefixes have one, and in which slot of the device it is.

A state holds all tokens before it, so a prefix whose KV is found is of use only where the state at
its end was kept. Content is known by digests alone. It knows neither sequences nor arrays.
"""

from __future__ import annotations

from collections import OrderedDict

from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.sequences.snapshot import Snapshot


class Snapshots:
    """Hands out slots `first` to `first + count - 1`, the least recently used again first.

    A slot whose state is to be read in the pass that chooses a step is not given away in that pass:
    steps run in the order of their dispatch, but the rows of a step do not.
    """

    def __init__(self, first: int, count: int) -> None:
        self._slots = range(first, first + count)
        self._free = list(reversed(self._slots))
        self._slot_by_digest: OrderedDict[bytes, int] = OrderedDict()
        self._pending: set[int] = set()
        self._read: set[bytes] = set()

    def begin_pass(self) -> None:
        """What was to be read is in steps that were dispatched."""
        self._read.clear()

    def has(self, digest: bytes) -> bool:
        """Whether the state at the end of this content can be found."""
        return digest in self._slot_by_digest

    def use(self, digest: bytes) -> int:
        """The slot of a state that can be found, to be read by a step of this pass."""
        self._slot_by_digest.move_to_end(digest)
        self._read.add(digest)
        return self._slot_by_digest[digest]

    def begin(self, digest: bytes, position: int) -> Snapshot | None:
        """A slot for a state that a step will keep; None if each is about to be read or written."""
        if not self._free:
            oldest = next((each for each in self._slot_by_digest if each not in self._read), None)
            if oldest is None:
                return None
            self.forget(oldest)
        slot = self._free.pop()
        self._pending.add(slot)
        return Snapshot(slot, position, digest)

    def settle(self, snapshot: Snapshot, *, is_sound: bool) -> None:
        """The step was read. If what it found is sound, the state can be found from now on."""
        self._pending.remove(snapshot.slot)
        if is_sound and not self.has(snapshot.digest):
            self._slot_by_digest[snapshot.digest] = snapshot.slot
        else:
            self._free.append(snapshot.slot)

    def forget(self, digest: bytes) -> None:
        """Nobody shall find this state again."""
        slot = self._slot_by_digest.pop(digest, None)
        if slot is not None:
            self._free.append(slot)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every slot is free, found by one digest, or being written."""
        known = [*self._free, *self._slot_by_digest.values(), *self._pending]
        if sorted(known) != list(self._slots):
            raise IntegrityError("slots of snapshots are lost or held twice")


def snapshots(max_num_seqs: int, count: int | None) -> Snapshots | None:
    """Those of one data rank, in the slots after the sequences' own; None where `count` is."""
    return None if count is None else Snapshots(max_num_seqs, count)
