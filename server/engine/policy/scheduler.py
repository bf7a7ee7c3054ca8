"""The sequences of one data rank: who is taken in, who waits, who runs.

Pure policy over plain integers: no arrays, no transport, and the time is an argument. At most one
dispatched step may be unread when a step is scheduled. A step runs one version of the weights:
which one is decided for all ranks together.
"""

from __future__ import annotations

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.admission import AdmissionError, check_admission
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.load import Load
from server.engine.policy.queue.pace import Pace
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.results import Results, SequenceEvent
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.speculation import Speculation
from server.engine.policy.step_choice import StepChoice
from server.engine.policy.ttft_admission import check_ttft, outlook


class Scheduler:
    """Who waits, who runs, and what becomes of them; `choice` says who is next, `results` who ends.

    The `choice` is of a class of its own, so that another can decide in another way. An image has
    `image_tokens`, if prompts may have images.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_queue_len: int,
        max_model_len: int,
        versions: ServedVersions,
        adapters: AdapterSlots | None = None,
        image_tokens: int = 0,
        speculation: Speculation | None = None,
        choice: type[StepChoice] = StepChoice,
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens {max_num_batched_tokens} is below max_num_seqs "
                f"{max_num_seqs}: a step could not hold one token of every sequence"
            )
        self.block_manager = block_manager
        # A sequence alone in the pool must be able to run to its end, or it would preempt itself
        # and never fit again.
        self._max_num_tokens = min(max_model_len, block_manager.max_num_tokens)
        block_manager.check_windows(max_num_batched_tokens, self._max_num_tokens)
        self._waiting = WaitingQueue(max_queue_len)
        self.adapters = adapters or AdapterSlots()
        self._running = RunningSet(block_manager, max_num_seqs, self.adapters)
        self.results = Results(self._waiting, self._running, block_manager, self.adapters)
        self.versions = versions
        self._pace = Pace(max_num_batched_tokens)
        self._num_released = 0
        self._speculation = speculation
        self._choice = choice(
            self._waiting,
            self._running,
            block_manager,
            adapters=self.adapters,
            versions=versions,
            max_num_batched_tokens=max_num_batched_tokens,
            image_tokens=image_tokens,
            speculation=speculation,
        )

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def is_queue_full(self) -> bool:
        return self._waiting.is_full

    @property
    def is_short_of_work(self) -> bool:
        """A slot is free and nobody waits for it."""
        return self._running.num_free_slots > 0 and not len(self._waiting)

    def load(self) -> Load:
        """Safe to call from another thread."""
        fullest = self.block_manager.fullest
        return Load(
            num_requests_waiting=self._waiting.num_requests,
            num_sequences_running=len(self._running),
            num_unfinished=self.num_unfinished,
            num_free_blocks=fullest.num_free_blocks,
            num_usable_blocks=fullest.num_usable_blocks,
            is_queue_full=self._waiting.is_full,
            host=self.block_manager.host,
        )

    def retarget(self) -> None:
        """Another version is served: the digests of sequences that wait for it are outdated."""
        for seq in self._waiting:
            if seq.version is None:
                seq.block_digests.clear()
                seq.num_expected_tokens = 0

    def users(self, version: LoadedVersion) -> list[Sequence]:
        """The unfinished sequences that run, or must run, on this version."""
        return [seq for seq in (*self._running, *self._waiting) if seq.version == version]

    def withdraw(self, version: LoadedVersion) -> None:
        """Let every request that has no token of `version` yet begin again on what is served."""
        users = self.users(version)
        begun = {seq.request for seq in users if seq.has_begun or seq.is_pinned}
        for seq in reversed(users):
            if seq.request not in begun:
                if seq.state is SequenceState.RUNNING:
                    self._choice.preempt(seq)
                seq.version = None
                seq.block_digests.clear()
                seq.num_expected_tokens = 0
                seq.prompt_logprobs[:] = [None]

    def add(self, seqs: list[Sequence], now: float, *, first: bool = False) -> list[SequenceEvent]:
        """Queue all choices of one request, or raise AdmissionError and take none.

        `first` is for the engine's own requests: they go to the head of even a full queue. Returns
        the last events of a request of lower priority that was shed for this one.
        """
        leader = seqs[0]
        for seq in seqs:
            check_admission(seq, self.block_manager, self._max_num_tokens, now)
        is_shared = self.block_manager.num_shareable_blocks(leader.num_prompt_tokens) > 0
        shed = [] if first else self._make_room_in_queue(leader)
        for seq in seqs:
            seq.max_num_tokens = min(seq.max_num_tokens, self._max_num_tokens)
            seq.prompt_logprobs = leader.prompt_logprobs
            seq.leader = leader if is_shared and seq is not leader else None
            seq.num_expected_tokens = self._num_expected_tokens(seq)
            self.adapters.begin(seq.adapter)
        if not first and (leader.deadline is not None or leader.priority < 0):
            waiting, running = self._waiting, self._running
            check_ttft(leader, outlook(leader, waiting, running, self._pace, now), now)
        events = [
            (seq, self.results.fail(seq, "overloaded", "a request of a higher priority came"))
            for seq in shed
        ]
        self._waiting.add(seqs, first=first)
        return events

    def on_step(self, num_prompt_tokens: int, seconds: float, now: float) -> None:
        """A step has ended that computed so many prompt tokens of this rank."""
        self._pace.on_step(num_prompt_tokens, seconds)
        num_freed = self._running.num_stopped - self._num_released
        self._num_released += num_freed
        self._pace.on_releases(num_freed, now, is_anyone_waiting=len(self._waiting) > 0)

    def num_cached_tokens(self, seq: Sequence) -> int:
        """How much of a new sequence's prompt it would find in the prefix cache."""
        own, seq.version = seq.version, self.versions.meant_by(seq.version)
        num_tokens = self.block_manager.num_cached_tokens(seq)
        seq.version = own
        return num_tokens

    def release_request(self) -> list[Sequence]:
        """Give up the first request in the queue of which nothing has run, if there is one."""
        return self._waiting.release_request(self._running)

    def adopt(self, seqs: list[Sequence]) -> None:
        """Queue a request that another scheduler of the same limits has taken in, and given up."""
        for seq in seqs:
            seq.num_expected_tokens = 0
        self._waiting.add(seqs)

    def wanted_versions(self) -> set[LoadedVersion]:
        """The versions that somebody runs on, or could now."""
        wanted = {seq.version for seq in self._running}
        wanted |= {self.versions.meant_by(seq.version) for seq in self._waiting.heads()}
        return {version for version in wanted if version is not None}

    def schedule(self, version: LoadedVersion, now: float) -> ScheduledBatch:
        """Choose the rows of a step of `version`, and advance their counts as if it had run."""
        return self._choice.schedule(version, now)

    def wants_tokens_of(self, batch: ScheduledBatch) -> bool:
        """Whether a step in flight is to be read before another is scheduled."""
        return self._choice.wants_tokens_of(batch)

    def note_step(self, batch: ScheduledBatch, seconds: float) -> None:
        """A step of only decodes took `seconds`, from the end of the step before it."""
        if self._speculation is not None:
            self._speculation.note_step(len(batch.rows), seconds, has_drafts=batch.has_drafts)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block and slot is free or held by who runs."""
        self._running.check_integrity()
        if any(seq.block_tables or seq.slot >= 0 for seq in self._waiting):
            raise IntegrityError("a waiting sequence holds blocks or a slot")

    def _num_expected_tokens(self, seq: Sequence) -> int:
        """How much of a new sequence the prefix cache will hold when it begins, by what is known
        now."""
        if seq.leader is None:
            return self.num_cached_tokens(seq)
        blocks = self.block_manager
        return blocks.num_shareable_blocks(len(seq.token_ids)) * blocks.block_size

    def _make_room_in_queue(self, seq: Sequence) -> list[Sequence]:
        """Who must leave the queue for a new request: nobody, or one that may be shed.

        AdmissionError if the queue is full and nobody in it may be shed.
        """
        if self._waiting.has_room_for(seq.source):
            return []
        shed = self._waiting.sheddable_below(seq.priority, self._running)
        if not shed:
            raise AdmissionError(
                "queue_full", f"{self._waiting.max_len} requests wait already; try again later"
            )
        return shed
