"""How much of its allowance each name has left: a bucket of requests and a bucket of tokens.

A bucket holds a minute's worth and fills at a constant rate. A call is let in while there is
something left, and then spends what it used, so one call may take a bucket below zero. Time is an
argument. Knows neither keys nor transports.
"""

from __future__ import annotations

from server.api.access.api_keys import Allowance, Caller

_MINUTE = 60.0


class Bucket:
    """Units that flow in at `per_minute` and never exceed it. Full at first."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._filled_at = now

    def spend(self, amount: float, now: float) -> None:
        self._fill(now)
        self._level -= amount

    def seconds_until(self, least: float, now: float) -> float:
        """How long it takes until the bucket holds `least`; 0 if it does."""
        self._fill(now)
        missing = min(least, self._per_minute) - self._level
        return max(0.0, missing * _MINUTE / self._per_minute)

    def _fill(self, now: float) -> None:
        gained = (now - self._filled_at) * self._per_minute / _MINUTE
        self._level = min(self._per_minute, self._level + gained)
        self._filled_at = now


class Budgets:
    """The buckets of every name. `part` of each allowance is this process's."""

    def __init__(self, part: float = 1.0) -> None:
        self._part = part
        self._buckets: dict[str, tuple[Allowance, Bucket | None, Bucket | None]] = {}

    def seconds_until_open(self, caller: Caller, now: float) -> tuple[float, str]:
        """How long the caller must wait for its next request, and which limit says so."""
        requests, tokens = self._of(caller, now)
        waits = [
            (bucket.seconds_until(1, now), name)
            for bucket, name in ((requests, "requests_per_minute"), (tokens, "tokens_per_minute"))
            if bucket
        ]
        return max(waits, default=(0.0, ""))

    def spend_request(self, caller: Caller, now: float) -> None:
        requests, _ = self._of(caller, now)
        if requests:
            requests.spend(1, now)

    def spend_tokens(self, caller: Caller, num_tokens: int, now: float) -> None:
        _, tokens = self._of(caller, now)
        if tokens:
            tokens.spend(num_tokens, now)

    def _of(self, caller: Caller, now: float) -> tuple[Bucket | None, Bucket | None]:
        """The caller's buckets; new ones where the file has given it other limits."""
        found = self._buckets.get(caller.name)
        if found is None or found[0] != caller.allowance:
            allowance = caller.allowance
            limits = (allowance.requests_per_minute, allowance.tokens_per_minute)
            requests, tokens = (
                Bucket(limit * self._part, now) if limit else None for limit in limits
            )
            found = self._buckets[caller.name] = (allowance, requests, tokens)
        return found[1], found[2]
