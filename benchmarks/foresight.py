"""Drafts for measuring speculation: what came without it, but wrong at every fifth place.

So most drafts come true and some do not, whatever the model says. They are made wherever there is
room, whatever they cost. Knows neither models nor engines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.engine.policy.drafts.drafter import Drafter
from server.engine.policy.sequences.sequence import Sequence as EngineSequence
from server.engine.policy.speculation import DraftRoom, Speculation

_WRONG_EVERY = 5


class Foresight(Speculation):
    """`texts` are the tokens of each request, prompts included, by the request's id."""

    def __init__(self, rooms: Sequence[DraftRoom], most: int, texts: Sequence[list[int]]) -> None:
        super().__init__(rooms, most)
        self._texts = texts
        for num_rows in (1, 2, 4, 8):  # Steps with drafts are said to cost nothing.
            self.note_step(num_rows, 1e6, has_drafts=False)
            self.note_step(num_rows, 0.0, has_drafts=True)

    def may_follow(self, decodes: Collection[EngineSequence]) -> bool:
        for seq in decodes:
            if seq.drafter is None:
                seq.drafter = _Foreseer(self._texts[seq.request_id])
        return super().may_follow(decodes)


class _Foreseer(Drafter):
    """Drafts for one sequence, of which it has the whole text."""

    def __init__(self, text: list[int]) -> None:
        super().__init__()
        self._text = text

    def drafts(self, token_ids: Sequence[int], most: int) -> list[int]:
        places = range(len(token_ids), min(len(token_ids) + most, len(self._text)))
        return [self._text[i] if i % _WRONG_EVERY else self._text[i] ^ 1 for i in places]

    def note(self, num_accepted: int) -> None:
        """It learns nothing from what came true."""


@dataclass(slots=True)
class Tally:
    """Tokens with speculation and drafts that came true, and requests with another token."""

    num_tokens: int = 0
    num_guessed: int = 0
    num_requests: int = 0
    num_turned: int = 0

    def __str__(self) -> str:
        return (
            f"speculation, all models: {self.num_tokens} tokens, of which {self.num_guessed} were"
            f" guessed; {self.num_turned} of {self.num_requests} requests had another token"
        )
