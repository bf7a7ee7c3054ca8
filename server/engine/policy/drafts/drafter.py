"""Drafts for one sequence: as many as have come true lately, and for a while none after failures.

A draft is a token that may come next. The step that computes it draws what really comes next at
every place, so a wrong draft costs time only. Knows neither other sequences nor what a step costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.policy.drafts.token_history import TokenHistory

# The weight of the newest attempt in the mean of what attempts gain.
_WEIGHT = 0.25
# A sequence that has gained less per attempt makes none for a while; each such while is longer.
_LEAST_GAIN = 0.3
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 128


class Drafter:
    """`gain` is the mean number of drafts per attempt that came true, the newest counting most."""

    def __init__(self) -> None:
        self.gain = 1.0
        self._history = TokenHistory()
        self._pause = _FIRST_PAUSE
        self._resume_at = 0

    def drafts(self, token_ids: Sequence[int], most: int) -> list[int]:
        """At most `most` drafts of what follows `token_ids`, which never become shorter."""
        wanted = min(most, 1 + round(2 * self.gain))
        if wanted < 1 or len(token_ids) < self._resume_at:
            return []
        self._history.extend(token_ids)
        return self._history.continuation(wanted)

    def note(self, num_accepted: int) -> None:
        """An attempt was made; so many drafts came true."""
        self.gain += _WEIGHT * (num_accepted - self.gain)
        if self.gain < _LEAST_GAIN:
            self._resume_at = len(self._history) + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self.gain = 1.0
        elif self.gain > 1:
            self._pause = _FIRST_PAUSE


def num_accepted(draft_ids: Sequence[int], drawn_ids: Sequence[int]) -> int:
    """How many drafts came true, up to the first that did not.

    `drawn_ids[i]` was drawn at the place of `draft_ids[i]`, as if the drafts before were the text.
    """
    for i, (draft, drawn) in enumerate(zip(draft_ids, drawn_ids, strict=False)):
        if draft != drawn:
            return i
    return min(len(draft_ids), len(drawn_ids))
