"""How busy the policy is, as numbers that other threads and other processes can be shown.

It is a record only: it knows neither queues nor blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.policy.blocks.host_pool import HostPrefixes


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """In requests, sequences and blocks: of that kind of layers of which most are held.

    Only a server of one rank has `host`.
    """

    num_requests_waiting: int
    num_sequences_running: int
    num_unfinished: int
    num_free_blocks: int
    num_usable_blocks: int
    is_queue_full: bool
    host: HostPrefixes = field(default_factory=HostPrefixes)

    def __add__(self, other: Load) -> Load:
        """The load of two ranks together, whose queue is full when both queues are."""
        return Load(
            num_requests_waiting=self.num_requests_waiting + other.num_requests_waiting,
            num_sequences_running=self.num_sequences_running + other.num_sequences_running,
            num_unfinished=self.num_unfinished + other.num_unfinished,
            num_free_blocks=self.num_free_blocks + other.num_free_blocks,
            num_usable_blocks=self.num_usable_blocks + other.num_usable_blocks,
            is_queue_full=self.is_queue_full and other.is_queue_full,
            host=self.host,
        )
