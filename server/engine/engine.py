"""The step loop: takes frames in, sends scheduled steps to the device, sends events out.

One thread owns everything behind `run`. Other threads only put messages into the inbox or read the
load. The loop knows neither the model nor the transport: a runner executes batches, and `send`
delivers frames. What becomes of each request is in `requests`.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from server.engine.observer import Observer, StepKind, StepStats
from server.engine.policy.admission import AdmissionError
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.image_admission import TEXT_ONLY, ImageLimits
from server.engine.policy.load import Load
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.step import ScheduledBatch, StepResult
from server.engine.requests import Matchers, Requests
from server.engine.version_changes import VersionChanges
from server.link import frames as link

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
    far as rounding allows. `images` says what images requests may have.
    """

    def __init__(
        self,
        ranks: Ranks,
        runner: Runner[InFlight],
        observer: Observer,
        send: Callable[[int, link.Step], None],
        *,
        eos_token_ids: tuple[int, ...],
        images: ImageLimits = TEXT_ONLY,
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
        self._overlap = overlap
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._requests = Requests(
            ranks,
            observer,
            eos_token_ids=eos_token_ids,
            images=images,
            clock=clock,
            on_fault=self._changes.on_fault,
        )
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
        self._inbox.put(partial(self._requests.refuse, client, submit, error))

    def disconnect(self, client: int) -> None:
        """The client is gone: abort all its requests."""
        self._inbox.put(partial(self._requests.disconnect, client))

    def end(self, version: LoadedVersion, message: str) -> None:
        """End every request that still runs on a version, with the error unavailable."""
        self._inbox.put(partial(self._requests.end, lambda seq: seq.version == version, message))

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
        self._requests.publish(self._ranks.expire(self._clock()))
        if dispatched and self._ranks.wants_tokens_of(dispatched.batch):
            self._finish(dispatched)
            dispatched = self._running_since = None
        following = self._dispatch()
        if not self._overlap:
            dispatched, following = following, None
        if dispatched:
            self._finish(dispatched)
            self._running_since = self._last_read if following else None
        for client, frame in self._requests.take_frames():
            self._send(client, frame)
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
                self._requests.abort(client, frame)
            case link.Refused():
                # A deadline that passed before the request came here left no server time for it.
                is_late = frame.outcome == "deadline_exceeded"
                self._observer.on_refused(frame.outcome, is_hopeless=is_late)
            case link.KeyUse():
                self._observer.on_key_use(
                    frame.key, frame.num_prompt_tokens, frame.num_generated_tokens
                )

    def _submit(self, client: int, submit: link.Submit, matchers: Matchers) -> None:
        if self._is_draining:
            error = AdmissionError("unavailable", "the server is shutting down")
            self._requests.refuse(client, submit, error)
        else:
            self._requests.submit(client, submit, matchers)

    def _drain(self) -> None:
        self._is_draining = True

    def _stop(self) -> None:
        self._is_draining = True
        self._requests.end(lambda seq: True, "the server is shutting down")

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
        self._requests.observe_admissions(batch, start)
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
        gaps = self._requests.observe_tokens(events, now)
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
        self._requests.publish(events)


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
