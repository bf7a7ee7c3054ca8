"""A recurrent state that a step keeps, for prompts that begin as its sequence does.

Names a place on the device; knows neither who may take it nor what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the tokens before `position`, whose digest it has, in a slot."""

    slot: int
    position: int
    digest: bytes
