"""What the lab counts as lost: how an answer's tokens differ from those of an idle server.

Knows neither load nor regions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """One stream: its resumptions, and how its tokens differ from those of an undisturbed one."""

    start: float
    end: float
    protocol: str
    num_resumed: int
    num_retries: int
    num_lost: int
    num_duplicated: int
    error: str = ""


def differences(token_ids: list[int], expected: list[int]) -> tuple[int, int]:
    """How many tokens of a stream are missing, and how many are too many or others."""
    num_equal = len(common_prefix(token_ids, expected))
    return len(expected) - num_equal, len(token_ids) - num_equal


def is_right(token_ids: list[int], expected: list[int]) -> bool:
    """Whether a whole answer begins as expected. Where nothing is expected, no answer is right."""
    return bool(expected) and token_ids[: len(expected)] == expected


def common_prefix(left: list[int], right: list[int]) -> list[int]:
    """The number of leading tokens that two streams have in common."""
    pairs = itertools.takewhile(lambda p: p[0] == p[1], zip(left, right, strict=False))
    return [token_id for token_id, _ in pairs]
