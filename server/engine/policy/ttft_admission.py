"""Whether a new request can have its first token in time, given the queue and the measured pace.

The estimate is a bound from below: a request is refused only if even that is too late, and none is
refused before a pace is known. Pure arithmetic over what the scheduler knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from server.engine.policy.admission import AdmissionError
from server.engine.policy.queue.pace import Pace
from server.engine.policy.queue.prefill_shares import num_tokens_to_compute
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.sequence import Sequence

# No server promises an answer in less.
LEAST_LIMIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a new request finds. Rates are per second, None while unknown.

    `num_ahead` requests have their turn before it, and `num_slots` are free or would be made free
    for it. `num_own_tokens` of its prompt must be computed; `num_tokens_before` are of prompts that
    go first: those that are shorter and wait no less.
    """

    num_ahead: int
    num_slots: int
    num_own_tokens: int
    num_tokens_before: int
    slots_per_second: float | None
    prompt_tokens_per_second: float | None

    @property
    def own_seconds(self) -> float:
        """What the first token takes at least where nobody else is; 0 where nothing is known."""
        return _seconds(self.num_own_tokens, self.prompt_tokens_per_second)

    @property
    def seconds_to_first_token(self) -> float:
        """At least; 0 where nothing is known."""
        num_missing = max(0, self.num_ahead + 1 - self.num_slots)
        before = _seconds(self.num_tokens_before, self.prompt_tokens_per_second)
        return self.own_seconds + max(before, _seconds(num_missing, self.slots_per_second))


def outlook(
    seq: Sequence, waiting: WaitingQueue, running: RunningSet, pace: Pace, now: float
) -> Outlook:
    """What `seq` finds if it is queued now."""
    num_own_tokens = num_tokens_to_compute(seq)
    num_ahead = waiting.num_ahead(seq)
    ahead = sorted(map(num_tokens_to_compute, waiting.ahead_of(seq.priority)))[:num_ahead]
    under_way = (each.num_uncomputed_tokens for each in running if not each.is_decoding)
    return Outlook(
        num_ahead=num_ahead,
        num_slots=running.num_free_slots + (len(running.sheddable) if seq.priority >= 0 else 0),
        num_own_tokens=num_own_tokens,
        num_tokens_before=sum(num for num in (*ahead, *under_way) if num <= num_own_tokens),
        slots_per_second=pace.slots_per_second(now),
        prompt_tokens_per_second=pace.prompt_tokens_per_second,
    )


def check_ttft(seq: Sequence, outlook: Outlook, now: float) -> None:
    """AdmissionError (overloaded) if the first token would come too late, with when to try again.

    Too late is after the deadline; for a request that may be shed, also after the time to the first
    token that its caller hopes for.
    """
    limits = [] if seq.deadline is None else [seq.deadline - now]
    if seq.priority < 0 and seq.ttft_seconds is not None:
        limits.append(seq.ttft_seconds)
    limit, seconds = min(limits, default=math.inf), outlook.seconds_to_first_token
    if seconds > limit:
        raise AdmissionError(
            "overloaded",
            f"the first token would come in about {seconds:.1f} s, and must come within"
            f" {limit:.1f} s; {outlook.num_ahead} requests are ahead",
            retry_after=math.ceil(seconds - limit),
            is_hopeless=outlook.own_seconds > limit,
        )


def was_hopeless(seq: Sequence) -> bool:
    """Whether a deadline that passed was too short for any server, however idle.

    Else the queue of this one took the time. One that never ran has waited for all of it.
    """
    if seq.deadline is None:
        return False
    limit = seq.deadline - seq.arrival
    waited = limit if seq.first_scheduled_time is None else seq.queued_seconds
    return limit < LEAST_LIMIT_SECONDS or waited < limit / 2


def _seconds(amount: int, per_second: float | None) -> float:
    return amount / per_second if per_second else 0.0
