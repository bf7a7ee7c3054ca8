"""What one prompt of a call had done, as far as traces show it: times and counts, never text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.api.requests.generation import Sampling

type Operation = Literal["chat", "text_completion", "embeddings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Times are seconds of the monotonic clock, None for what it never came to.

    `begun` is its first step, `first_token` the first token's coming to this process.
    """

    model: str
    version: str
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    submitted: float
    begun: float | None = None
    first_token: float | None = None
    ended: float
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    finish_reasons: tuple[str, ...] = ()
    error: str = ""
