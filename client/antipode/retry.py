"""How often to try, and how long to wait before: bounded, jittered, never past the deadline.

Knows no transport. Time is an argument, so that it is tested without waiting.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from antipode.errors import AntipodeError, DeadlineExceededError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of one call; times in seconds.

    `max_attempts` counts the first try, retries and resumptions together, so that a request which
    kills the servers it reaches cannot kill many. The wait doubles from `initial_backoff` to
    `max_backoff`, of which a random half to whole is waited. A server that says nothing for
    `stall_timeout` is given up: it must exceed the slowest first token.
    """

    max_attempts: int = 8
    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    stall_timeout: float = 30.0

    def backoff(self, attempt: int, jitter: Callable[[], float]) -> float:
        """Seconds to wait after that many attempts; `jitter` gives 0 to 1."""
        longest = min(self.max_backoff, self.initial_backoff * 2.0 ** (attempt - 1))
        return longest * (0.5 + 0.5 * jitter())


class Attempts:
    """The tries of one call. `deadline` is of the clock that `now` is read from, None for none."""

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
        """Seconds left, None without a deadline; DeadlineExceededError when there are none."""
        if self._deadline is None:
            return None
        if self._deadline <= now:
            raise self._counted(DeadlineExceededError("the call's timeout passed"))
        return self._deadline - now

    def delay_after(self, error: AntipodeError, now: float) -> float:
        """Seconds to wait before the next try; raises what the call fails with if there is none."""
        self.num_failed += 1
        if not error.is_retriable or self.num_failed >= self._policy.max_attempts:
            raise self._counted(error)
        delay = max(error.retry_after, self._policy.backoff(self.num_failed, self._jitter))
        if self._deadline is not None and now + delay >= self._deadline:
            late = DeadlineExceededError(f"the call's timeout leaves no time to retry: {error}")
            raise self._counted(late) from error
        return delay

    def _counted(self, error: AntipodeError) -> AntipodeError:
        error.attempts = max(1, self.num_failed)
        return error
