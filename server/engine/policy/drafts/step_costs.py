"""What steps with drafts take next to steps without, by the number of rows, as measured.

Running means of seconds. Knows neither drafts nor what they gain.
"""

from __future__ import annotations

_WEIGHT = 0.1
# Each time that an estimate stands in the way of drafts it fades, so that one slow step does not
# end them for good.
_FADE = 0.998


class StepCosts:
    """Rows are counted up to the next power of two, because steps are padded."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, bool], float] = {}

    def note(self, num_rows: int, seconds: float, *, has_drafts: bool) -> None:
        """A step of decodes took so long, with all that the host did before it."""
        key = _size(num_rows), has_drafts
        before = self._seconds.get(key, seconds)
        self._seconds[key] = before + _WEIGHT * (seconds - before)

    def pays(self, num_rows: int, gain: float) -> bool:
        """Whether a step with drafts that gains `gain` tokens beats one without, in tokens/s.

        Not before a step without drafts was measured; then the first with drafts is tried.
        """
        size = _size(num_rows)
        plain, drafting = (self._seconds.get((size, has)) for has in (False, True))
        if plain is None:
            return False
        if drafting is None or (num_rows + gain) * plain > num_rows * drafting:
            return True
        self._seconds[size, True] = drafting * _FADE
        return False


def _size(num_rows: int) -> int:
    return (num_rows - 1).bit_length()
