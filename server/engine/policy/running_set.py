"""What runs: the sequences that have a slot and KV blocks, in the order of their admission.

It keeps slots, blocks and the order together. Who starts and who must stop is decided elsewhere; it
knows neither the queue nor steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.sequences.sequence import Sequence, SequenceState


class RunningSet:
    """Whoever is in it has one of `num_slots` slots, blocks and a slot for its adapter, if it has
    one; nobody else has.
    """

    def __init__(self, blocks: BlockManager, num_slots: int, adapters: AdapterSlots) -> None:
        self._blocks, self._adapters = blocks, adapters
        self._num_slots = num_slots
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._seqs: list[Sequence] = []
        self.num_stopped = 0

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def sheddable(self) -> list[Sequence]:
        """Who may be preempted for others: the lowest priority first, of equals the newest."""
        newest_first = [seq for seq in self._seqs[::-1] if seq.priority < 0]
        return sorted(newest_first, key=lambda seq: seq.priority)

    def last_from(self, seq: Sequence) -> Sequence:
        """Who makes room for `seq`, itself or admitted after it: of the lowest priority below
        zero, else the most recently admitted."""
        behind = self._seqs[self._seqs.index(seq) :]
        return min(reversed(behind), key=lambda each: min(each.priority, 0))

    def start(self, seq: Sequence, num_tokens: int, max_chunk: int) -> bool:
        """Give `seq` a free slot, and the blocks of `num_tokens`, to run `max_chunk` of them first.

        False, and nothing changed, when that would not leave each of the others a block to grow
        into. `seq` may start as far as its adapter's slot is concerned.
        """
        if not self._blocks.allocate(seq, num_tokens, max_chunk=max_chunk, others=self._seqs):
            return False
        seq.adapter_slot = self._adapters.hold(seq.adapter)
        self._seqs.append(seq)
        seq.state = SequenceState.RUNNING
        seq.slot = self._free_slots.pop()
        return True

    def stop(self, seq: Sequence) -> None:
        """Take back the slot and the blocks of `seq`. Its next state is for the caller to set."""
        self.num_stopped += 1
        self._seqs.remove(seq)
        self._blocks.free(seq)
        self._adapters.release(seq.adapter)
        seq.adapter_slot = 0
        self._free_slots.append(seq.slot)
        seq.slot = -1

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block and slot is free or held by who runs."""
        self._blocks.check_integrity(self._seqs)
        slots = [*self._free_slots, *(seq.slot for seq in self._seqs)]
        if sorted(slots) != list(range(self._num_slots)):
            raise IntegrityError("slots are lost or held twice")
