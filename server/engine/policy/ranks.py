"""One scheduler for every data rank: which of them a request goes to, and one step of all.

A rank has slots and KV blocks of its own, and no other rank sees them: a sequence stays where it
first ran. All ranks run in one step, on one version of the weights. What a rank does with its
sequences is its scheduler's business.
"""

from __future__ import annotations

from server.engine.policy.scheduler import Scheduler, SequenceEvent, take_turns
from server.engine.policy.sequence import LoadedVersion, Sequence
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step import ScheduledBatch, StepResult
from server.link.frames import EngineErrorKind, FinishReason, TokenEvent

# A prefix that a rank has cached is worth this much more work there, as a part and in sequences:
# one prompt that everybody begins with must not send everybody to one rank.
_BUSIER, _MORE_SEQUENCES = 1.25, 2


class Ranks:
    """A `Policy` made of one `Scheduler` a rank, in the order of the ranks."""

    def __init__(self, schedulers: list[Scheduler]) -> None:
        self._schedulers = schedulers
        self._last_version: LoadedVersion | None = None

    @property
    def num_running(self) -> int:
        return sum(each.num_running for each in self._schedulers)

    @property
    def num_waiting_requests(self) -> int:
        return sum(each.num_waiting_requests for each in self._schedulers)

    @property
    def num_unfinished(self) -> int:
        return sum(each.num_unfinished for each in self._schedulers)

    @property
    def num_free_blocks(self) -> int:
        return sum(each.num_free_blocks for each in self._schedulers)

    @property
    def num_usable_blocks(self) -> int:
        return sum(each.num_usable_blocks for each in self._schedulers)

    @property
    def is_queue_full(self) -> bool:
        return all(each.is_queue_full for each in self._schedulers)

    @property
    def versions(self) -> ServedVersions:
        """One object, which all ranks share."""
        return self._schedulers[0].versions

    def retarget(self) -> None:
        """As a scheduler does, on all ranks."""
        for each in self._schedulers:
            each.retarget()

    def users(self, version: LoadedVersion) -> list[Sequence]:
        """Those of all ranks."""
        return [seq for each in self._schedulers for seq in each.users(version)]

    def withdraw(self, version: LoadedVersion) -> None:
        """As a scheduler does, on all ranks."""
        for each in self._schedulers:
            each.withdraw(version)

    def add(self, seqs: list[Sequence], now: float, *, first: bool = False) -> None:
        """Queue all choices of one request with one rank, or raise AdmissionError."""
        rank = self._choose(seqs[0])
        for seq in seqs:
            seq.rank = rank
        self._schedulers[rank].add(seqs, now, first=first)

    def schedule(self, now: float) -> ScheduledBatch:
        """The rows of all ranks for the next step, rank by rank, all of one version."""
        wanted = {version for each in self._schedulers for version in each.wanted_versions()}
        for version in take_turns(wanted, self._last_version):
            batches = [each.schedule_version(version, now) for each in self._schedulers]
            num_preempted = sum(batch.num_preempted for batch in batches)
            rows = tuple(row for batch in batches for row in batch.rows)
            if rows or num_preempted:
                self._last_version = version
                self._balance()
                return ScheduledBatch(rows, num_preempted, version)
        return ScheduledBatch(())

    def postprocess(self, batch: ScheduledBatch, result: StepResult) -> list[SequenceEvent]:
        """Apply what a step found, rank by rank."""
        rows = list(zip(batch.rows, result.rows, strict=True))
        events = []
        for rank, each in enumerate(self._schedulers):
            own = [(row, found) for row, found in rows if row.seq.rank == rank]
            part = ScheduledBatch(tuple(row for row, _ in own), version=batch.version)
            events += each.postprocess(part, StepResult(tuple(found for _, found in own)))
        return events

    def expire(self, now: float) -> list[SequenceEvent]:
        """End every sequence whose deadline has passed."""
        return [event for each in self._schedulers for event in each.expire(now)]

    def fail(self, seq: Sequence, error: EngineErrorKind, message: str) -> TokenEvent:
        """Finish a sequence with an error; its terminal event."""
        return self._schedulers[seq.rank].fail(seq, error, message)

    def finish(
        self, seq: Sequence, reason: FinishReason, error: EngineErrorKind | None = None
    ) -> None:
        """End an unfinished sequence in any state."""
        self._schedulers[seq.rank].finish(seq, reason, error)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every rank's blocks and slots are free or held by its own."""
        for each in self._schedulers:
            each.check_integrity()

    def _choose(self, seq: Sequence) -> int:
        """The rank that has most of the prompt cached, of those that are not much busier than the
        least busy; of equals, the least busy. A full queue only where all are."""
        loads = {
            rank: each.num_unfinished
            for rank, each in enumerate(self._schedulers)
            if self.is_queue_full or not each.is_queue_full
        }
        most = min(loads.values()) * _BUSIER + _MORE_SEQUENCES
        return min(
            (rank for rank, load in loads.items() if load <= most),
            key=lambda rank: (-self._schedulers[rank].num_cached_tokens(seq), loads[rank], rank),
        )

    def _balance(self) -> None:
        """Give ranks that nobody waits for what waits at others and has not run yet."""
        for rank, idle in enumerate(self._schedulers):
            if idle.num_waiting or not idle.num_free_slots:
                continue
            donor = max(self._schedulers, key=lambda each: each.num_waiting)
            seqs = donor.release_request()
            for seq in seqs:
                seq.rank = rank
            idle.adopt(seqs)
