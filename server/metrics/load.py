"""The load that the engine reports with every pulse: how full it is, its rates, its totals.

The step loop counts; the pulse thread reads. Knows neither metric names nor who reads the load.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from server.link.status import EngineLoad, Totals
from server.metrics.snapshot import Snapshot

# Outcomes that are the server's fault, or its refusal. Others are what the client asked for.
FAILURES = frozenset({"internal", "unavailable", "queue_full", "overloaded", "deadline_exceeded"})
SUCCESSES = frozenset({"stop", "length"})
# Requests run for seconds, so a shorter window would count none or many.
RATE_WINDOW_SECONDS = 10.0


class Rate:
    """Turns a growing count into its increase per second over the last seconds."""

    def __init__(self, window_seconds: float = RATE_WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, now: float, count: float) -> float:
        """Add a sample. Returns the rate since the oldest sample of the window, at least 0."""
        self._samples.append((now, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_seconds:
            self._samples.popleft()
        then, before = self._samples[0]
        return max(0.0, (count - before) / (now - then)) if now > then else 0.0


class LoadMeter:
    """Counts what ends. One thread counts, and one reads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_ended = self._num_failures = 0
        self._num_succeeded = self._num_failed = self._num_admitted = self._num_steps = 0
        self._succeeded_seconds = self._failed_seconds = self._queue_seconds = 0.0
        self._busy_seconds = self._last_end = 0.0
        self._num_prompt_tokens = self._num_cached_tokens = self._num_generated_tokens = 0
        self._requests, self._errors, self._tokens = Rate(), Rate(), Rate()
        self._wanted, self._request_seconds = Rate(), Rate()
        # The integral of what is wanted over time, up to the last reading.
        self._wanted_seconds, self._last_reading = 0.0, clock()

    def on_step(self, seconds: float, num_generated_tokens: int) -> None:
        self._num_steps += 1
        self._busy_seconds += seconds
        self._num_generated_tokens += num_generated_tokens

    def on_admitted(self, queue_seconds: float, num_prompt: int, num_cached: int) -> None:
        self._num_admitted += 1
        self._queue_seconds += queue_seconds
        self._num_prompt_tokens += num_prompt
        self._num_cached_tokens += num_cached

    def on_ended(self, outcome: str, seconds: float = 0.0, *, is_hopeless: bool = False) -> None:
        """A request ended, or was refused after 0 seconds.

        A hopeless one had a time limit that no server could keep. Its failure is its caller's:
        balancers would take a replica for broken.
        """
        self._num_ended += 1
        self._num_failures += outcome in FAILURES and not is_hopeless
        if outcome in SUCCESSES:
            self._num_succeeded += 1
            self._succeeded_seconds += seconds
            self._last_end = time.time()
        elif outcome in FAILURES:
            self._num_failed += 1
            self._failed_seconds += seconds

    def load(self, gauges: Snapshot, busy_ratio: float) -> EngineLoad:
        """The load now. One thread at a time."""
        now = self._clock()
        chips = gauges.chips.values()
        duty_cycles = [each for use in chips for each in use.duty_cycle.values()]
        fullness = [
            used / use.hbm_limit[device] for use in chips for device, used in use.hbm_used.items()
        ]
        return EngineLoad(
            num_running=gauges.num_requests_running,
            num_waiting=gauges.num_requests_waiting,
            num_slots=gauges.num_slots,
            max_queue_len=gauges.max_queue_len,
            kv_cache_usage=gauges.kv_cache_usage_ratio,
            max_kv_tokens=gauges.num_blocks * gauges.block_size,
            device_busy=busy_ratio,
            duty_cycle=max(duty_cycles, default=None),
            hbm_usage=max(fullness, default=None),
            requests_per_second=self._requests.update(now, self._num_ended),
            errors_per_second=self._errors.update(now, self._num_failures),
            tokens_per_second=self._tokens.update(now, self._num_generated_tokens),
            mean_wanted=self._mean_wanted(now, gauges),
            totals=self._totals(),
        )

    def _mean_wanted(self, now: float, gauges: Snapshot) -> float:
        """Readings miss short requests, and the seconds of ended requests miss running ones."""
        wanted = gauges.num_requests_running + gauges.num_requests_waiting
        self._wanted_seconds += wanted * (now - self._last_reading)
        self._last_reading = now
        ended = self._succeeded_seconds + self._failed_seconds
        return max(
            self._wanted.update(now, self._wanted_seconds),
            self._request_seconds.update(now, ended),
        )

    def _totals(self) -> Totals:
        return Totals(
            num_succeeded=self._num_succeeded,
            succeeded_seconds=self._succeeded_seconds,
            num_failed=self._num_failed,
            failed_seconds=self._failed_seconds,
            num_admitted=self._num_admitted,
            queue_seconds=self._queue_seconds,
            num_steps=self._num_steps,
            busy_seconds=self._busy_seconds,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            last_end=self._last_end,
        )
