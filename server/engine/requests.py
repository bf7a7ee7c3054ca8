"""The requests that are in the engine: their sequences, what their clients are told of them.

From a request's first frame to the end of its last choice. Owned by the step loop's thread. Client
0 is the engine process itself, which tests new weights by requests: its requests come first, and no
metric counts them. Knows neither steps nor the device, nor how frames reach a client.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf

from server.config.priorities import MAX_PRIORITY
from server.engine.observer import Observer
from server.engine.policy.admission import AdmissionError
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.image_admission import ImageLimits
from server.engine.policy.results import SequenceEvent
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.sequences.step import ScheduledBatch
from server.engine.policy.ttft_admission import was_hopeless
from server.grammar.matcher import Matcher
from server.link import frames as link

# One per choice of a request, None for a choice that has ended.
type Matchers = SequenceOf[Matcher | None]

OWN_CLIENT = 0
# Above every priority that a request may have.
_OWN_PRIORITY = MAX_PRIORITY + 1


class Requests:
    """`on_fault` is told the version whose output was not finite for somebody's request.

    `images` says what images requests may have.
    """

    def __init__(
        self,
        ranks: Ranks,
        observer: Observer,
        *,
        eos_token_ids: tuple[int, ...],
        images: ImageLimits,
        clock: Callable[[], float],
        on_fault: Callable[[LoadedVersion], None],
    ) -> None:
        self._ranks, self._observer = ranks, observer
        self._eos_token_ids = eos_token_ids
        self._images, self._clock = images, clock
        self._on_fault = on_fault
        self._requests: dict[tuple[int, int], list[Sequence]] = {}
        self._events: defaultdict[int, list[link.TokenEvent]] = defaultdict(list)
        self._seq_ids = itertools.count()

    def submit(self, client: int, submit: link.Submit, matchers: Matchers) -> None:
        """Queue the choices of a request, or refuse it."""
        is_own = client == OWN_CLIENT
        try:
            self._images.check(submit)
            seqs = self._sequences(client, submit, matchers)
            shed = self._ranks.add(seqs, self._clock(), first=is_own)
        except AdmissionError as error:
            self.refuse(client, submit, error)
        else:
            self._requests[client, submit.request_id] = seqs
            self.publish(shed)

    def refuse(self, client: int, submit: link.Submit, error: AdmissionError) -> None:
        """End a request before it begins."""
        self._observer.on_refused(error.kind, is_hopeless=error.is_hopeless)
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

    def abort(self, client: int, abort: link.Abort) -> None:
        """End choices that their client has given up."""
        for seq in self._unfinished(client, abort.request_id):
            if abort.index not in (None, seq.index):
                continue
            if abort.reason == "deadline_exceeded":
                self._ranks.finish(seq, "error", "deadline_exceeded")
            else:
                self._ranks.finish(seq, abort.reason)
            self._retire(seq)

    def disconnect(self, client: int) -> None:
        """The client is gone: abort all its requests."""
        for owner, request_id in list(self._requests):
            if owner == client:
                self.abort(client, link.Abort(request_id=request_id))
        self._events.pop(client, None)

    def end(self, is_meant: Callable[[Sequence], bool], message: str) -> None:
        """End the choices that are meant with the error unavailable."""
        for client, request_id in list(self._requests):
            for seq in filter(is_meant, self._unfinished(client, request_id)):
                self.publish([(seq, self._ranks.fail(seq, "unavailable", message))])

    def publish(self, events: list[SequenceEvent]) -> None:
        """Note what clients are to be told, and retire the requests that ended."""
        for seq, event in events:
            self._events[seq.client].append(event)
            if event.error == "internal" and seq.version is not None and seq.client != OWN_CLIENT:
                self._on_fault(seq.version)
            if event.finish_reason is not None:
                self._retire(seq)

    def take_frames(self) -> Iterator[tuple[int, link.Step]]:
        """What is to be sent: one frame per client."""
        events, self._events = self._events, defaultdict(list)
        return ((client, link.Step(events=each)) for client, each in events.items())

    def observe_admissions(self, batch: ScheduledBatch, now: float) -> None:
        """Count the requests that a step scheduled now for the first time."""
        for row in batch.rows:
            seq = row.seq
            if seq.client == OWN_CLIENT:
                continue
            if row.is_admitted and seq.first_scheduled_time == now and self._is_first(seq):
                self._observer.on_admitted(
                    now - seq.arrival, seq.num_prompt_tokens, seq.num_cached_tokens
                )

    def observe_tokens(self, events: list[SequenceEvent], now: float) -> tuple[float, ...]:
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

    def _sequences(self, client: int, submit: link.Submit, matchers: Matchers) -> list[Sequence]:
        version = self._ranks.versions.find(submit.version, may_be_closed=client == OWN_CLIENT)
        adapter = self._ranks.adapters.find(submit.adapter, submit.adapter_version)
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
                images=tuple(submit.images),
            )
            for index, token_ids in enumerate(received)
            if token_ids is not None
        ]

    def _unfinished(self, client: int, request_id: int) -> list[Sequence]:
        seqs = self._requests.get((client, request_id), [])
        return [seq for seq in seqs if seq.state is not SequenceState.FINISHED]

    def _is_first(self, seq: Sequence) -> bool:
        """Whether metrics count the request by this choice."""
        return self._requests[seq.client, seq.request_id][0] is seq

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
        outcome = (troubles or outcomes)[0]
        self._observer.on_finished(
            outcome,
            self._clock() - seq.arrival,
            choices[0].seconds_per_output_token,
            is_hopeless=outcome == "deadline_exceeded" and was_hopeless(choices[0]),
        )
