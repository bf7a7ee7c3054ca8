"""Chooses steps for a model whose tokens see later tokens: a prompt runs whole or not at all.

No prompt may be longer than a step, and no prefix may be found in the cache. Knows neither why
tokens see one another nor what becomes of a prompt.
"""

from __future__ import annotations

from server.engine.policy.sequences.sequence import LoadedVersion, Sequence
from server.engine.policy.step_choice import StepChoice


class WholePromptChoice(StepChoice):
    """A prompt whose turn it is waits for a step that has room for it, and all others behind it."""

    def _shares_of_shortest(
        self, version: LoadedVersion, running: list[Sequence], decoding: set[Sequence]
    ) -> dict[Sequence, int]:
        """None: a share would be a part of a prompt."""
        return {}

    def _admit(
        self,
        seq: Sequence,
        version: LoadedVersion,
        max_chunk: int,
        now: float,
        *,
        is_overtaking: bool,
    ) -> bool:
        if seq.num_uncomputed_tokens > max_chunk:
            return False
        return super()._admit(seq, version, max_chunk, now, is_overtaking=is_overtaking)
