"""The step loop: takes frames in, sends scheduled steps to the device, sends events out.

One thread owns everything behind `run`. Other threads only put messages into the inbox or read the
load. The loop knows neither the model nor the transport: a runner executes batches, and `send`
delivers frames. Client 0 is the engine process itself, which tests new weights by requests. Its
requests come first, and no metric counts them.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from server.engine.observer import Observer, StepKind, StepStats
from server.engine.policy.admission import AdmissionError
from server.engine.policy.load import Load
from server.engine.policy.ranks import Ranks
from server.engine.policy.results import SequenceEvent
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch, StepResult
from server.engine.version_changes import VersionChanges
from server.grammar.matcher import Matcher
from server.link import frames as link
from server.priorities import MAX_PRIORITY

# One per choice of a request, None for a choice that has ended.
type Matchers = SequenceOf[Matcher | None]

OWN_CLIENT = 0
# Above every priority that a request may have.
_OWN_PRIORITY = MAX_PRIORITY + 1
_IDLE_SECONDS = 0.25


class Runner[InFlight](Protocol):
    """Runs batches on the device, in the order of the calls."""

    def execute(self, batch: ScheduledBatch) -> InFlight:
        """Dispatch a step without waiting for it; reads all it needs of the sequences now."""

    def read(self, in_flight: InFlight) -> StepResult:
        """Wait for a dispatched step and copy its results to the host."""


@dataclass(frozen=True, slots=True)
class Dispatched[InFlight]:
    """A step on the device; `start` is the time when it was dispatched."""

    batch: ScheduledBatch
    in_flight: InFlight
    start: float


class Engine[InFlight]:
    """Serves sequences until it is drained and empty, or stopped.

    The step loop calls `send` with one frame per client and step; `send` must not block. Without
    `overlap`, every step is read before the next is scheduled: slower, with the same tokens as
    far as rounding allows.
    """

    def __init__(
        self,
        ranks: Ranks,
        runner: Runner[InFlight],
        observer: Observer,
        send: Callable[[int, link.Step], None],
        *,
        eos_token_ids: tuple[int, ...],
        overlap: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ranks = ranks
        self.versions = ranks.versions
        self.adapters = ranks.adapters
        self._changes = VersionChanges(ranks)
        self._runner = runner
        self._observer = observer
        self._send = send
        self._eos_token_ids = eos_token_ids
        self._overlap = overlap
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._requests: dict[tuple[int, int], list[Sequence]] = {}
        self._events: defaultdict[int, list[link.TokenEvent]] = defaultdict(list)
        self._seq_ids = itertools.count()
        self._is_draining = False
        self._last_read = 0.0
        self._running_since: float | None = None
        self._waiting_since: float | None = None
        self.last_progress = clock()

    def call[T](self, function: Callable[[VersionChanges], T]) -> Future[T]:
        """Run `function` between two steps. Any thread may call this, and all down to `run`."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(self._changes))
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def receive(self, client: int, frame: link.ToEngine, matchers: Matchers = ()) -> None:
        """Take a frame from a client; with a request of a grammar, a matcher per choice."""
        self._inbox.put(partial(self._on_frame, client, frame, matchers))

    def refuse(self, client: int, submit: link.Submit, message: str) -> None:
        """End a request whose grammar cannot be followed, before it begins."""
        error = AdmissionError("invalid_request", message)
        self._inbox.put(partial(self._refuse, client, submit, error))

    def disconnect(self, client: int) -> None:
        """The client is gone: abort all its requests."""
        self._inbox.put(partial(self._disconnect, client))

    def end(self, version: LoadedVersion, message: str) -> None:
        """End every request that still runs on a version, with the error unavailable."""
        self._inbox.put(partial(self._end, lambda seq: seq.version == version, message))

    def fail(self, error: Exception) -> None:
        """Nothing can be served any more: `run` raises `error`."""
        self._inbox.put(partial(_raise, error))

    def drain(self) -> None:
        """Refuse new requests; `run` returns when the accepted ones have ended."""
        self._inbox.put(self._drain)

    def stop(self) -> None:
        """End every request with an error now; `run` returns."""
        self._inbox.put(self._stop)

    def load(self) -> Load:
        return self._ranks.load()

    def running_seconds(self) -> float:
        """How long the current step has been on the device, in seconds; 0 when it is idle."""
        since = self._running_since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def queue_stall_seconds(self) -> float:
        """For how long requests have waited without one that began, in seconds; 0 if none waits."""
        since = self._waiting_since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def run(self) -> None:
        """The step loop. Raises the runner's error or IntegrityError; both are fatal."""
        dispatched: Dispatched[InFlight] | None = None
        while dispatched or self._ranks.num_unfinished or not self._is_draining:
            dispatched = self.step(dispatched)

    def step(self, dispatched: Dispatched[InFlight] | None) -> Dispatched[InFlight] | None:
        """One round of the loop: dispatch the next step, then read the one before it.

        A step that drafts depend on is read first.
        """
        self._take_messages(wait=not dispatched and not self._ranks.num_unfinished)
        self._publish(self._ranks.expire(self._clock()))
        if dispatched and self._ranks.wants_tokens_of(dispatched.batch):
            self._finish(dispatched)
            dispatched = self._running_since = None
        following = self._dispatch()
        if not self._overlap:
            dispatched, following = following, None
        if dispatched:
            self._finish(dispatched)
            self._running_since = self._last_read if following else None
        self._flush()
        self.last_progress = self._clock()
        return following

    def _take_messages(self, *, wait: bool) -> None:
        try:
            if wait:
                self._inbox.get(timeout=_IDLE_SECONDS)()
            # Only the messages that are there now: senders must not delay the next step.
            for _ in range(self._inbox.qsize()):
                self._inbox.get_nowait()()
        except queue.Empty:  # The loop is idle: a good time to check for lost blocks.
            self._ranks.check_integrity()

    def _on_frame(self, client: int, frame: link.ToEngine, matchers: Matchers) -> None:
        match frame:
            case link.Submit():
                self._submit(client, frame, matchers)
            case link.Abort():
                self._abort(client, frame)
            case link.Refused():
                self._observer.on_refused(frame.outcome)
            case link.KeyUse():
                self._observer.on_key_use(
                    frame.key, frame.num_prompt_tokens, frame.num_generated_tokens
                )

    def _submit(self, client: int, submit: link.Submit, matchers: Matchers) -> None:
        is_own = client == OWN_CLIENT
        try:
            if self._is_draining:
                raise AdmissionError("unavailable", "the server is shutting down")
            seqs = self._sequences(client, submit, matchers)
            shed = self._ranks.add(seqs, self._clock(), first=is_own)
        except AdmissionError as error:
            self._refuse(client, submit, error)
        else:
            self._requests[client, submit.request_id] = seqs
            self._publish(shed)

    def _sequences(self, client: int, submit: link.Submit, matchers: Matchers) -> list[Sequence]:
        version = self.versions.find(submit.version, may_be_closed=client == OWN_CLIENT)
        adapter = self.adapters.find(submit.adapter, submit.adapter_version)
        received = submit.received or [[]] * submit.n
        return [
            Sequence(
                seq_id=next(self._seq_ids),
                client=client,
                request_id=submit.request_id,
                index=index,
                params=submit.params,
                eos_token_ids=self._eos_token_ids,
                token_ids=[*submit.prompt_token_ids, *token_ids],
                num_received_tokens=len(token_ids),
                arrival=submit.arrival,
                deadline=submit.deadline,
                source=submit.source,
                priority=_OWN_PRIORITY if client == OWN_CLIENT else submit.priority,
                ttft_seconds=submit.ttft_seconds,
                version=version,
                adapter=adapter,
                matcher=matchers[index] if matchers else None,
                pooling=submit.pooling,
            )
            for index, token_ids in enumerate(received)
            if token_ids is not None
        ]

    def _refuse(self, client: int, submit: link.Submit, error: AdmissionError) -> None:
        self._observer.on_refused(error.kind)
        self._events[client].extend(
            link.TokenEvent(
                request_id=submit.request_id,
                index=index,
                finish_reason="error",
                error=error.kind,
                message=error.message,
                retry_after=error.retry_after,
            )
            for index in range(submit.n)
        )

    def _abort(self, client: int, abort: link.Abort) -> None:
        for seq in self._unfinished(client, abort.request_id):
            if abort.index not in (None, seq.index):
                continue
            if abort.reason == "deadline_exceeded":
                self._ranks.finish(seq, "error", "deadline_exceeded")
            else:
                self._ranks.finish(seq, abort.reason)
            self._retire(seq)

    def _unfinished(self, client: int, request_id: int) -> list[Sequence]:
        seqs = self._requests.get((client, request_id), [])
        return [seq for seq in seqs if seq.state is not SequenceState.FINISHED]

    def _is_first(self, seq: Sequence) -> bool:
        """Whether metrics count the request by this choice."""
        return self._requests[seq.client, seq.request_id][0] is seq

    def _disconnect(self, client: int) -> None:
        for owner, request_id in list(self._requests):
            if owner == client:
                self._abort(client, link.Abort(request_id=request_id))
        self._events.pop(client, None)

    def _drain(self) -> None:
        self._is_draining = True

    def _stop(self) -> None:
        self._is_draining = True
        self._end(lambda seq: True, "the server is shutting down")

    def _end(self, is_meant: Callable[[Sequence], bool], message: str) -> None:
        for client, request_id in list(self._requests):
            for seq in filter(is_meant, self._unfinished(client, request_id)):
                self._publish([(seq, self._ranks.fail(seq, "unavailable", message))])

    def _dispatch(self) -> Dispatched[InFlight] | None:
        start = self._clock()
        batch = self._ranks.schedule(start)
        self._watch_queue(batch, start)
        if batch.num_preempted:
            self._observer.on_preempted(batch.num_preempted)
        if not batch:
            return None
        if self._running_since is None:
            self._running_since = start
        for row in batch.rows:
            seq = row.seq
            if seq.client == OWN_CLIENT:
                continue
            if row.is_admitted and seq.first_scheduled_time == start and self._is_first(seq):
                self._observer.on_admitted(
                    start - seq.arrival, seq.num_prompt_tokens, seq.num_cached_tokens
                )
        return Dispatched(batch, self._runner.execute(batch), start)

    def _watch_queue(self, batch: ScheduledBatch, now: float) -> None:
        if not self._ranks.num_waiting:
            self._waiting_since = None
        elif self._waiting_since is None or any(row.is_admitted for row in batch.rows):
            self._waiting_since = now

    def _finish(self, dispatched: Dispatched[InFlight]) -> None:
        result = self._runner.read(dispatched.in_flight)
        now = self._clock()
        batch, kind = dispatched.batch, _kind(dispatched.batch)
        events = self._ranks.postprocess(batch, result)
        gaps = self._observe_tokens(events, now)
        if kind == "decode":  # A step came right before it: the loop has not been idle.
            self._ranks.note_step(batch, now - self._last_read)
        duration = now - max(dispatched.start, self._last_read)
        self._ranks.on_step(batch, duration, now)
        self._observer.on_step(
            StepStats(
                kind=kind,
                duration=duration,
                num_tokens=batch.num_tokens,
                num_padded_tokens=result.num_padded_tokens,
                num_generated_tokens=sum(len(event.token_ids) for _, event in events),
                inter_token_seconds=gaps,
                drafts=_drafts(batch, result),
            )
        )
        self._last_read = now
        self._publish(events)

    def _publish(self, events: list[SequenceEvent]) -> None:
        for seq, event in events:
            self._events[seq.client].append(event)
            if event.error == "internal" and seq.version is not None and seq.client != OWN_CLIENT:
                self._changes.on_fault(seq.version)
            if event.finish_reason is not None:
                self._retire(seq)

    def _flush(self) -> None:
        """Send one frame per client."""
        for client, events in self._events.items():
            self._send(client, link.Step(events=events))
        self._events.clear()

    def _retire(self, seq: Sequence) -> None:
        """Forget a request when its last choice has ended, and count its outcome."""
        key = seq.client, seq.request_id
        choices = self._requests.get(key)
        # None: several choices ended in one step, and the first of them retired the request.
        if choices is None or self._unfinished(*key):
            return
        del self._requests[key]
        if seq.client == OWN_CLIENT:
            return
        outcomes = [choice.outcome for choice in choices]
        troubles = [outcome for outcome in outcomes if outcome not in ("stop", "length")]
        self._observer.on_finished(
            (troubles or outcomes)[0],
            self._clock() - seq.arrival,
            choices[0].seconds_per_output_token,
        )

    def _observe_tokens(self, events: list[SequenceEvent], now: float) -> tuple[float, ...]:
        """Stamp the choices that got a token. Returns the gaps to their last tokens, in seconds."""
        gaps: list[float] = []
        for seq, event in events:
            if not event.token_ids or seq.client == OWN_CLIENT:
                continue
            if seq.last_token_time is not None:
                gaps.append(now - seq.last_token_time)
                gaps += [0.0] * (len(event.token_ids) - 1)
            else:
                seq.first_token_time = now
                if self._is_first(seq):
                    self._observer.on_first_token(now - seq.arrival)
            seq.last_token_time = now
        return tuple(gaps)


def _raise(error: Exception) -> None:
    raise error


def _kind(batch: ScheduledBatch) -> StepKind:
    num_decodes = sum(row.is_decode for row in batch.rows)
    if num_decodes == len(batch.rows):
        return "decode"
    return "mixed" if num_decodes else "prefill"


def _drafts(batch: ScheduledBatch, result: StepResult) -> tuple[tuple[int, int], ...]:
    """How many drafts each row had that had some, and how many of them came true."""
    return tuple(
        (len(row.draft_ids), max(0, len(found.token_ids) - 1))
        for row, found in zip(batch.rows, result.rows, strict=True)
        if row.draft_ids
    )
