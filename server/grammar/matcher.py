"""One choice's place in its grammar: it takes the choice's tokens and knows what may come next.

Several threads may read different matchers at once. Knows neither requests nor the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from llguidance import LLMatcher

from server.grammar.grammar_error import SUBJECT, said_plainly


class Matcher:
    """Starts before the first token. `num_tokens` have been taken.

    `error` says why the matcher cannot go on, empty while it can. Once set, it stays.
    """

    __slots__ = ("error", "inner", "num_tokens")

    def __init__(self, inner: LLMatcher, num_tokens: int = 0) -> None:
        self.inner = inner
        self.num_tokens = num_tokens
        self.error = ""

    def copy(self) -> Self:
        """Another matcher at the same place."""
        return type(self)(self.inner.deep_copy(), self.num_tokens)

    def take(self, token_ids: Sequence[int]) -> None:
        """Go past these tokens; sets `error` at the first that does not fit."""
        for token_id in token_ids:
            if self.error:
                return
            self.inner.consume_token(token_id)
            self.note_error()
            self.num_tokens += not self.error

    def note_error(self) -> None:
        """Set `error` if the last call has failed."""
        if self.inner.is_error() and not self.error:
            reason = said_plainly(self.inner.get_error().partition("\n")[0])
            self.error = f"{SUBJECT} cannot go on after {self.num_tokens} tokens: {reason}"
