"""Decides how often to try and how long to wait: bounded, with jitter, never past the deadline.

Knows no transport. Time is an argument, so that tests do not wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from antipode.errors import AntipodeError, DeadlineExceededError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of one call; times in seconds.

    `max_attempts` counts the first try, retries and resumptions together. So a request that kills
    the servers it reaches kills only a few. The wait doubles from `initial_backoff` to
    `max_backoff`; each wait is a random part of it, between one half and all. A server that is
    silent for `stall_timeout` counts as failed, so this must exceed the slowest first token. The
    client waits as long as a server asks, but not for longer than `max_retry_after`.
    """

    max_attempts: int = 8
    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    stall_timeout: float = 30.0
    max_retry_after: float = 60.0

    def backoff(self, attempt: int, jitter: Callable[[], float]) -> float:
        """Seconds to wait after this many attempts; `jitter` returns 0 to 1."""
        longest = min(self.max_backoff, self.initial_backoff * 2.0 ** (attempt - 1))
        return longest * (0.5 + 0.5 * jitter())


class Attempts:
    """The tries of one call. `deadline` and `now` use one clock; None means no deadline."""

    def __init__(
        self,
        policy: RetryPolicy,
        deadline: float | None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.num_failed = 0
        self._policy = policy
        self._deadline = deadline
        self._jitter = jitter

    def remaining(self, now: float) -> float | None:
        """Seconds left, None without a deadline; DeadlineExceededError if no time is left."""
        if self._deadline is None:
            return None
        if self._deadline <= now:
            raise self._counted(DeadlineExceededError("the call's timeout passed"))
        return self._deadline - now

    def delay_after(self, error: AntipodeError, now: float) -> float:
        """Seconds to wait before the next try; raises the call's error if no try is left."""
        self.num_failed += 1
        if not error.is_retriable or self.num_failed >= self._policy.max_attempts:
            raise self._counted(error)
        asked = min(error.retry_after, self._policy.max_retry_after)
        delay = max(asked, self._policy.backoff(self.num_failed, self._jitter))
        if self._deadline is not None and now + delay >= self._deadline:
            late = DeadlineExceededError(f"the call's timeout leaves no time to retry: {error}")
            raise self._counted(late) from error
        return delay

    def _counted(self, error: AntipodeError) -> AntipodeError:
        error.attempts = max(1, self.num_failed)
        return error
