"""Counts the tokens of a choice that are reasoning, which usage reports apart.

Text and tokens come in parallel, but no token says what it is. The bytes of the reasoning are found
again in the tokens' bytes. Knows neither a protocol nor a model's tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from server.api.tool_calls.events import AnswerEnded, Event, ReasoningDelta


class ReasoningCount:
    """Fed with each delta's tokens and events, until content comes."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._token_ids: list[int] = []
        self._reasoning: list[str] = []
        self._is_over = False

    def add(self, token_ids: Sequence[int], events: Iterable[Event]) -> None:
        if self._is_over:
            return
        self._token_ids += token_ids
        for event in events:
            if isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
            elif not isinstance(event, AnswerEnded):
                self._is_over = True
        if self._is_over and not self._reasoning:
            self._token_ids.clear()

    @property
    def num_tokens(self) -> int:
        """The tokens that begin before the reasoning's end, a tag in front included."""
        reasoning = "".join(self._reasoning).encode(errors="replace")
        if not reasoning:
            return 0
        pieces = [self._token_bytes(token_id) for token_id in self._token_ids]
        found = b"".join(pieces).find(reasoning)
        if found < 0:
            return len(pieces)
        starts = accumulate((len(piece) for piece in pieces), initial=0)
        return sum(start < found + len(reasoning) for start in list(starts)[:-1])
