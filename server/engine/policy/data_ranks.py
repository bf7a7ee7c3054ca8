"""What the step loop steps: a scheduler for every data rank, were it only one.

It decides which rank a request goes to and which version the next step runs, on all ranks. A rank
has slots and KV blocks of its own, and no other rank sees them: a sequence stays where it first
ran. What a rank does with its sequences is its scheduler's business.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from itertools import chain
from operator import add

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.load import Load
from server.engine.policy.results import SequenceEvent
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence
from server.engine.policy.sequences.step import ScheduledBatch, StepResult
from server.engine.policy.served_versions import ServedVersions
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent

# A prefix that a rank has cached is worth this much more work there, as a part and in sequences:
# one prompt that everybody begins with must not send everybody to one rank.
_BUSIER, _MORE_SEQUENCES = 1.25, 2


class Ranks:
    """All sequences, in the hands of one scheduler per rank, in the order of the ranks."""

    def __init__(self, schedulers: list[Scheduler]) -> None:
        self.schedulers = tuple(schedulers)
        self._last_version: LoadedVersion | None = None

    @property
    def num_unfinished(self) -> int:
        return sum(each.num_unfinished for each in self.schedulers)

    @property
    def num_waiting(self) -> int:
        return sum(each.num_waiting for each in self.schedulers)

    def load(self) -> Load:
        """Of all ranks together. Safe to call from another thread."""
        return reduce(add, (each.load() for each in self.schedulers))

    @property
    def versions(self) -> ServedVersions:
        """One object, which all ranks share."""
        return self.schedulers[0].versions

    @property
    def adapters(self) -> AdapterSlots:
        """One object, which all ranks share."""
        return self.schedulers[0].adapters

    def retarget(self) -> None:
        """As a scheduler does, on all ranks."""
        for each in self.schedulers:
            each.retarget()

    def users(self, version: LoadedVersion) -> list[Sequence]:
        """Those of all ranks."""
        return [seq for each in self.schedulers for seq in each.users(version)]

    def withdraw(self, version: LoadedVersion) -> None:
        """As a scheduler does, on all ranks."""
        for each in self.schedulers:
            each.withdraw(version)

    def add(self, seqs: list[Sequence], now: float, *, first: bool = False) -> list[SequenceEvent]:
        """Queue all choices of one request with one rank, or raise AdmissionError.

        Returns the last events of what was shed for it."""
        rank = self._choose(seqs[0])
        for seq in seqs:
            seq.rank = rank
        return self.schedulers[rank].add(seqs, now, first=first)

    def schedule(self, now: float) -> ScheduledBatch:
        """The rows of all ranks for the next step, rank by rank, all of one version."""
        wanted = {version for each in self.schedulers for version in each.wanted_versions()}
        for version in _least_recent_first(wanted, self._last_version):
            batches = [each.schedule(version, now) for each in self.schedulers]
            num_preempted = sum(batch.num_preempted for batch in batches)
            rows = tuple(chain.from_iterable(batch.rows for batch in batches))
            if rows or num_preempted:
                self._last_version = version
                self._balance()
                # Without rows there is no step that could need them.
                placements = self.adapters.take_placements() if rows else ()
                moves = self._take_moves() if rows else ()
                return ScheduledBatch(rows, num_preempted, version, placements, moves)
        return ScheduledBatch(())

    def wants_tokens_of(self, batch: ScheduledBatch) -> bool:
        """Whether a step in flight is to be read before another is scheduled."""
        return any(each.wants_tokens_of(batch) for each in self.schedulers)

    def note_step(self, batch: ScheduledBatch, seconds: float) -> None:
        """A step of only decodes took `seconds`, from the end of the step before it."""
        for each in self.schedulers:
            each.note_step(batch, seconds)

    def postprocess(self, batch: ScheduledBatch, result: StepResult) -> list[SequenceEvent]:
        """Apply what a step found, in the order the steps were dispatched."""
        events = []
        takers = [each.results.take for each in self.schedulers]
        for row, found in zip(batch.rows, result.rows, strict=True):
            event = takers[row.seq.rank](row, found, batch.version)
            if event is not None:
                events.append((row.seq, event))
        return events

    def on_step(self, batch: ScheduledBatch, seconds: float, now: float) -> None:
        """Have each rank learn its pace from a step that has ended."""
        num_prompt_tokens = Counter[int]()
        for row in batch.rows:
            if not row.is_decode:
                num_prompt_tokens[row.seq.rank] += row.num_scheduled_tokens
        for rank, each in enumerate(self.schedulers):
            each.on_step(num_prompt_tokens[rank], seconds, now)

    def expire(self, now: float) -> list[SequenceEvent]:
        """End every sequence whose deadline has passed."""
        return [event for each in self.schedulers for event in each.results.expire(now)]

    def fail(self, seq: Sequence, error: EngineErrorKind, message: str) -> TokenEvent:
        """Finish a sequence with an error; its terminal event."""
        return self.schedulers[seq.rank].results.fail(seq, error, message)

    def finish(
        self, seq: Sequence, reason: FinishReason, error: EngineErrorKind | None = None
    ) -> None:
        """End an unfinished sequence in any state."""
        self.schedulers[seq.rank].results.finish(seq, reason, error)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every rank's blocks and slots are free or held by its own."""
        for each in self.schedulers:
            each.check_integrity()

    def _choose(self, seq: Sequence) -> int:
        """The rank that has most of the prompt cached, of those that are not much busier than the
        least busy; of equals, the least busy. A full queue only where all are."""
        everyone = range(len(self.schedulers))
        with_room = [rank for rank in everyone if not self.schedulers[rank].is_queue_full]
        loads = {rank: self.schedulers[rank].num_unfinished for rank in with_room or everyone}
        most = min(loads.values()) * _BUSIER + _MORE_SEQUENCES
        candidates = [rank for rank, load in loads.items() if load <= most]
        if len(candidates) == 1:  # To look a long prompt up takes milliseconds.
            return candidates[0]
        return min(
            candidates,
            key=lambda rank: (-self.schedulers[rank].num_cached_tokens(seq), loads[rank], rank),
        )

    def _take_moves(self) -> tuple[BlockMoves, ...]:
        """Only a server of one rank keeps blocks on the host."""
        return tuple(
            chain.from_iterable(each.block_manager.take_moves() for each in self.schedulers)
        )

    def _balance(self) -> None:
        """Give ranks that nobody waits for what waits at others and has not run yet."""
        for rank, idle in enumerate(self.schedulers):
            if not idle.is_short_of_work:
                continue
            donor = max(self.schedulers, key=lambda each: each.num_waiting)
            if not donor.num_waiting:
                return
            seqs = donor.release_request()
            for seq in seqs:
                seq.rank = rank
            idle.adopt(seqs)


def _least_recent_first(
    wanted: set[LoadedVersion], last: LoadedVersion | None
) -> list[LoadedVersion]:
    """The versions in the order in which they may run next: the one that ran last at the end."""
    return sorted(wanted, key=lambda version: (version == last, version.number))
