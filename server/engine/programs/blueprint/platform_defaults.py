"""What a platform takes for settings that the operator leaves out. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformDefaults:
    """A platform's values for settings that the operator leaves out.

    On CPU, a step of 128 tokens is already limited by compute, so a larger step only delays other
    sequences, and a verify step is of use to few rows. Compiling is most of a start on CPU, so the
    ladder has few programs. A block is one chunk of attention there, which is one product per row
    and head; smaller ones are copied together for it. Elsewhere a small step costs as much as
    reading the weights.
    """

    block_size: int
    token_budget: int
    smallest_decode: int
    smallest_mixed: int
    growth: int
    draw_rows: int
    most_verified: int


# A block transfers a few hundred kilobytes, which suits the attention kernels of TPUs.
ACCELERATOR_BLOCK_SIZE = 128

_CPU = PlatformDefaults(
    block_size=64,
    token_budget=128,
    smallest_decode=2,
    smallest_mixed=32,
    growth=4,
    draw_rows=8,
    most_verified=32,
)
ACCELERATOR = PlatformDefaults(
    block_size=ACCELERATOR_BLOCK_SIZE,
    token_budget=2048,
    smallest_decode=8,
    smallest_mixed=256,
    growth=2,
    draw_rows=256,
    most_verified=256,
)


def platform_defaults(platform: str) -> PlatformDefaults:
    return _CPU if platform == "cpu" else ACCELERATOR
