"""Which rows a step has: decodes, chunks of prompts under way, and who begins.

A step may be chosen while the one before it runs; what that one draws is in flight then, and a
sequence may turn out to have ended in it: its row is void. Who waits and in which order is the
queue's business, who ends that of `results`. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, takewhile

from server.config.priorities import MAX_PRIORITY
from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.queue.prefill_shares import shares_of_shortest
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch, ScheduledRow
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.speculation import Speculation


class StepChoice:
    """Moves sequences from `waiting` to `running`, and back when they are preempted.

    Each step holds every decode, then chunks of prompts under way, then new admissions in the order
    of their turns, within `max_num_batched_tokens` tokens and the running set's slots. A part of
    the tokens is for the shortest prompts, out of their turn. A chunk is cut to what there are
    blocks for. Who finds no block preempts the most recently admitted sequence. With `speculation`,
    the rows of a step of only decodes may have drafts; such a step must be read before the next.
    No chunk ends within an image: it ends before it, or waits for a step that has room for it.
    Sequences with a priority below zero make way for others that wait.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        running: RunningSet,
        blocks: BlockManager,
        *,
        adapters: AdapterSlots,
        versions: ServedVersions,
        max_num_batched_tokens: int,
        image_tokens: int = 0,
        speculation: Speculation | None = None,
    ) -> None:
        self._waiting, self._running, self._blocks = waiting, running, blocks
        self._adapters, self._versions = adapters, versions
        self._max_num_batched_tokens = max_num_batched_tokens
        # The tokens that must be left for whose turn it is: of an image all run at once.
        self._image_tokens = image_tokens
        self._speculation = speculation

    def schedule(self, version: LoadedVersion, now: float) -> ScheduledBatch:
        """Choose the rows of a step of `version`, and advance their counts as if it had run."""
        num_running = len(self._running)
        self._adapters.begin_pass(self)
        self._blocks.begin_pass()
        self._make_way(version)
        running = [seq for seq in self._running if seq.version == version]
        # Asked once: every row of every step passes here.
        decoding = {seq for seq in running if seq.is_decoding}
        shares = self._shares_of_shortest(version, running, decoding)
        chunks = self._schedule_running(running, decoding, shares)
        num_preempted = num_running - len(self._running)
        admitted: list[Sequence] = []
        # Who was preempted must not come back before what is in flight for it was read.
        if not num_preempted:
            admitted = self._schedule_admissions(version, shares, chunks, now)
        self._extend(version, chunks, decoding)
        # A sequence that comes back may have one token left to compute, as if it decoded.
        drafts = {} if admitted else self._drafts(chunks)
        rows = [
            self._run(seq, num, is_admitted=seq in admitted, draft_ids=drafts.get(seq, ()))
            for seq, num in chunks.items()
        ]
        rows.sort(key=lambda row: (not row.is_decode, bool(row.draft_ids)))
        return ScheduledBatch(tuple(rows), num_preempted, version)

    def wants_tokens_of(self, batch: ScheduledBatch) -> bool:
        """Whether a step in flight is to be read before another is scheduled."""
        if self._speculation is None:
            return False
        if batch.has_drafts:
            return True
        begins = len(self._waiting) and self._running.num_free_slots
        decodes = [seq for seq in self._running if seq.version == batch.version]
        if begins or not all(seq.is_decoding for seq in decodes):
            return False
        return self._speculation.may_follow(decodes)

    def _make_way(self, version: LoadedVersion) -> None:
        """Preempt sequences below priority zero where others could begin, had they the room.

        For slots as many as wait; for blocks one per step, because few may be enough.
        """
        sheddable = self._running.sheddable
        if not sheddable:
            return
        num_free_slots, starved = self._running.num_free_slots, self._waiting.starved
        others = (seq for seq in self._waiting.in_turn() if seq.priority >= 0)
        ready = (seq for seq in others if self._is_ready(seq, version))
        num_ready = sum(1 for _ in islice(ready, num_free_slots + len(sheddable)))
        is_starved = num_ready > 0 and starved is not None and starved.priority >= 0
        for seq in sheddable[: max(num_ready - num_free_slots, int(is_starved))]:
            self.preempt(seq)

    def _shares_of_shortest(
        self, version: LoadedVersion, running: list[Sequence], decoding: set[Sequence]
    ) -> dict[Sequence, int]:
        """What prompts get out of their turn, at the most, of what decodes leave."""
        budget = self._max_num_batched_tokens - len(decoding)
        under_way = [s for s in running if s not in decoding and s.num_uncomputed_tokens]
        least = max((seq.priority for seq in under_way), default=-MAX_PRIORITY)
        # Nobody overtakes a higher priority, be it under way or waiting.
        others = takewhile(lambda seq: seq.priority >= least, self._may_overtake(version))
        return shares_of_shortest(budget, under_way, others, reserved=self._image_tokens)

    def _may_overtake(self, version: LoadedVersion) -> Iterator[Sequence]:
        """Who may begin by a share, in the order of the turns.

        Only whose turn it is, for the last slot, and while somebody waits for blocks.
        """
        num_free_slots = self._running.num_free_slots
        if not num_free_slots:
            return iter(())
        is_in_turn_only = num_free_slots == 1 or self._waiting.is_short_of_blocks
        ready = (seq for seq in self._waiting.in_turn() if self._is_ready(seq, version))
        first = next(ready, None)
        if first is None or is_in_turn_only:
            return iter(() if first is None else (first,))
        return chain((first,), takewhile(lambda seq: seq.priority == first.priority, ready))

    def _is_ready(self, seq: Sequence, version: LoadedVersion) -> bool:
        """Whether a sequence that waits could begin in a step of `version`, were there room."""
        is_meant = not seq.is_deferred and self._versions.meant_by(seq.version) == version
        return is_meant and self._adapters.may_start(seq.adapter, self)

    def _holds_up(self, seq: Sequence) -> bool:
        """Whether those behind a sequence that cannot begin in this step must wait for it."""
        is_first = seq is self._waiting.starved and not seq.is_deferred
        return is_first and self._versions.meant_by(seq.version) is not None

    def _schedule_running(
        self, running: list[Sequence], decoding: set[Sequence], shares: dict[Sequence, int]
    ) -> dict[Sequence, int]:
        """Every decode, and chunks of prompts under way: each its share, and what is left of the
        budget by age."""
        chunks: dict[Sequence, int] = {}
        budget = self._max_num_batched_tokens - len(decoding) - sum(shares.values())
        for seq in running:
            if seq in decoding:
                num_tokens = self._make_room(seq, 1)
            else:
                share = shares.pop(seq, 0)
                most = min(budget + share, seq.num_uncomputed_tokens)
                num_tokens = self._make_room(seq, seq.whole_chunk(most))
                budget += share - num_tokens
            if num_tokens:
                chunks[seq] = num_tokens
        return chunks

    def _schedule_admissions(
        self,
        version: LoadedVersion,
        shares: dict[Sequence, int],
        chunks: dict[Sequence, int],
        now: float,
    ) -> list[Sequence]:
        """Who begins, by turns: with what is left of the budget, or with its share."""
        admitted: list[Sequence] = []
        # Asking for the turns takes as long as the queue is.
        if not self._running.num_free_slots:
            return admitted
        budget = self._max_num_batched_tokens - sum(chunks.values()) - sum(shares.values())
        is_overtaking = False
        for seq in self._waiting.in_turn():
            num_free_slots = self._running.num_free_slots - is_overtaking
            if num_free_slots <= 0 or not (budget or shares):
                break
            if not self._is_ready(seq, version):
                if self._holds_up(seq):
                    break
                continue
            share = shares.pop(seq, 0)
            if not budget + share:
                is_overtaking = True
                continue
            # Whoever overtakes must not make another wait for blocks: small requests would keep a
            # large one out for ever.
            if not self._admit(seq, version, budget + share, now, is_overtaking=is_overtaking):
                break
            chunks[seq] = seq.whole_chunk(min(budget + share, seq.num_uncomputed_tokens))
            budget += share - chunks[seq]
            admitted.append(seq)
        return admitted

    def _extend(
        self, version: LoadedVersion, chunks: dict[Sequence, int], decoding: set[Sequence]
    ) -> None:
        """Give prompts under way, by age, what is left. Nobody is preempted for it."""
        budget = self._max_num_batched_tokens - sum(chunks.values())
        for seq in self._running:
            if budget <= 0:
                break
            if seq in decoding:
                continue
            num_tokens = chunks.get(seq, 0)
            more = min(budget, seq.num_uncomputed_tokens - num_tokens)
            wanted = seq.whole_chunk(num_tokens + more)
            if seq.version == version and wanted > num_tokens:
                grown = self._blocks.grow(seq, wanted, others=self._running)
                grown = seq.whole_chunk(grown)
                if grown > num_tokens:
                    chunks[seq] = grown
                    budget -= grown - num_tokens

    def _admit(
        self,
        seq: Sequence,
        version: LoadedVersion,
        max_chunk: int,
        now: float,
        *,
        is_overtaking: bool,
    ) -> bool:
        """Give `seq` its slot and blocks, leaving each running sequence one block to grow into."""
        # A preempted sequence comes back with all its tokens known or not at all.
        if seq.num_in_flight_tokens:
            return False
        num_tokens = min(seq.num_tokens + 1, seq.max_num_tokens)
        version_before, seq.version = seq.version, version
        if self._begins_with_larger_image(seq, max_chunk):
            seq.version = version_before
            return False
        if not self._running.start(seq, num_tokens, max_chunk):
            seq.version = version_before
            if not is_overtaking:
                self._waiting.starved = seq
            return False
        if not is_overtaking:
            self._waiting.starved = None
        self._waiting.take(seq)
        if version_before is None:
            self._waiting.bind(seq.request, version)
        seq.leader = None
        if seq.first_scheduled_time is None:
            seq.first_scheduled_time = now
            seq.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
        return True

    def _begins_with_larger_image(self, seq: Sequence, max_chunk: int) -> bool:
        """Whether an image comes first, after what is cached, for which the step has no room."""
        if not seq.images:
            return False
        start = self._blocks.num_cached_tokens(seq)
        return seq.before_image(start + max_chunk) == start

    def _drafts(self, chunks: dict[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        """Drafts for the rows of a step of only decodes, all tokens known, as blocks allow."""
        if self._speculation is None:
            return {}
        if not all(seq.is_decoding and not seq.num_in_flight_tokens for seq in chunks):
            return {}
        drafts: dict[Sequence, tuple[int, ...]] = {}
        for seq, found in self._speculation.choose(chunks).items():
            grown = self._blocks.grow(seq, 1 + len(found), others=self._running)
            drafts[seq] = tuple(found[: grown - 1])
        return drafts

    def _run(
        self,
        seq: Sequence,
        num_scheduled_tokens: int,
        *,
        is_admitted: bool = False,
        draft_ids: tuple[int, ...] = (),
    ) -> ScheduledRow:
        """The row, after counting it as if it had run and no draft had come true."""
        num_computed_tokens, restored_slot = seq.num_computed_tokens, seq.restored_slot
        snapshot = self._blocks.snapshot(seq, num_computed_tokens + num_scheduled_tokens)
        seq.num_computed_tokens += num_scheduled_tokens
        seq.restored_slot = -1
        num_tokens = seq.num_tokens
        is_sampling = seq.num_computed_tokens == num_tokens < seq.max_num_tokens
        seq.num_in_flight_tokens += is_sampling
        return ScheduledRow(
            seq,
            num_computed_tokens,
            num_scheduled_tokens + len(draft_ids),
            is_sampling,
            is_admitted,
            draft_ids=draft_ids,
            restored_slot=restored_slot,
            snapshot=snapshot,
        )

    def _make_room(self, seq: Sequence, wanted: int) -> int:
        """How many of the next `wanted` tokens of `seq` have blocks now.

        At least one, or all of an image, preempting from the end; 0 if `seq` was or is now
        preempted itself. Rows are scheduled in the order of admission, so a victim has none in this
        step yet.
        """
        others = self._running if wanted > 1 else ()
        while wanted and seq.state is SequenceState.RUNNING:
            num_tokens = seq.whole_chunk(self._blocks.grow(seq, wanted, others=others))
            if num_tokens:
                return num_tokens
            self.preempt(self._running.last_from(seq))
        return 0

    def preempt(self, seq: Sequence) -> None:
        """Back to the head of the queue. What is in flight for it is still read and kept."""
        self._running.stop(seq)
        seq.state = SequenceState.WAITING
        self._waiting.add([seq], first=True)
