"""How fast one rank works, as measured: prompt tokens per second, and slots freed per second.

Both are measured only while there is more to do than can be done, so they are rates of a busy rank;
None until enough was seen. Time is an argument. Knows neither sequences nor queues.
"""

from __future__ import annotations

from collections import deque

# The weight of the newest step.
_NEWEST = 0.2
# Slots freed: fewer say too little, and older ones too much about another time.
_MIN_RELEASES, _MAX_RELEASES = 8, 64


class Pace:
    """`max_prompt_tokens` is what a step can hold: steps with less than half of it say little."""

    def __init__(self, max_prompt_tokens: int) -> None:
        self._max_prompt_tokens = max_prompt_tokens
        self._releases: deque[float] = deque(maxlen=_MAX_RELEASES)
        self.prompt_tokens_per_second: float | None = None

    def on_step(self, num_prompt_tokens: int, seconds: float) -> None:
        """A step has computed so many tokens of prompts."""
        if 2 * num_prompt_tokens < self._max_prompt_tokens or seconds <= 0:
            return
        rate, known = num_prompt_tokens / seconds, self.prompt_tokens_per_second
        self.prompt_tokens_per_second = rate if known is None else known + _NEWEST * (rate - known)

    def on_releases(self, num_freed: int, now: float, *, is_anyone_waiting: bool) -> None:
        """So many slots were freed since the last call."""
        if is_anyone_waiting:
            self._releases.extend([now] * num_freed)
        else:
            self._releases.clear()

    def slots_per_second(self, now: float) -> float | None:
        """Over the time since the oldest release that is known, so a halt counts too."""
        if len(self._releases) < _MIN_RELEASES or now <= self._releases[0]:
            return None
        return (len(self._releases) - 1) / (now - self._releases[0])
