"""The ledger of one kind's KV blocks: which are held, how often, and what content can be found.

Content is known by digests alone. It knows neither sequences nor the other kinds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from server.engine.policy.blocks.host_pool import HostPool
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.block_table import BlockTable, block_table


class IntegrityError(Exception):
    """The ledger contradicts itself: a bug, and no reason to go on serving."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A table to be: `num_unseen` blocks it can do without, found ones, new ones up to `end`.

    In `shared`, 0 stands for content that only the host has. It takes a new block, by its digest.
    """

    num_unseen: int
    shared: list[int]
    end: int
    restored: list[bytes] = field(default_factory=list)

    @property
    def num_new(self) -> int:
        return self.end - self.num_unseen - len(self.shared) + len(self.restored)


class BlockPool:
    """Hands out blocks 1..num_blocks-1; in a table, 0 stands for one that was given back.

    A free block whose content is indexed stays findable until it is needed, least recently used
    first. Then `host` is asked to keep it, and it stays findable there.
    """

    def __init__(self, kind: KVKind, block_size: int, host: HostPool | None = None) -> None:
        if kind.num_blocks < 2 or block_size < 1:
            raise ValueError(
                f"{kind.num_blocks} blocks of {block_size} tokens hold nothing: "
                "at least 2 blocks (one is padding) of at least 1 token are needed"
            )
        self.kind = kind
        self.host = HostPool() if host is None else host
        self.num_usable_blocks = kind.num_blocks - 1
        self._share = kind.share(block_size)
        self._block_size = block_size
        self._ref_counts = [0] * kind.num_blocks
        self._blank = list(range(kind.num_blocks - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._block_by_digest: dict[bytes, int] = {}
        self._digest_by_block: dict[int, bytes] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks nobody holds, those with findable content included."""
        return len(self._blank) + len(self._cached)

    @property
    def usage(self) -> float:
        """The part of the blocks that somebody holds, 0 to 1."""
        return 1 - self.num_free_blocks / self.num_usable_blocks

    def first_block(self, position: int) -> int:
        """The first block that the token at `position`, or any after it, sees."""
        return self.kind.first_block(position, self._block_size)

    def has(self, digest: bytes) -> bool:
        """Whether the content with this digest can be found."""
        return digest in self._block_by_digest or self.host.has(digest)

    def claim(self, digests: list[bytes], chunk_end: int, end: int) -> Claim:
        """What a new sequence of `end` blocks needs, having found what these digests stand for.

        It computes up to block `chunk_end` first. Claims less than its share only if that is all.
        """
        num_unseen = self.first_block(len(digests) * self._block_size)
        seen = digests[num_unseen:]
        shared = [self._block_by_digest.get(digest, 0) for digest in seen]
        restored = [digest for digest, block in zip(seen, shared, strict=True) if not block]
        end = min(end, max(chunk_end, num_unseen + self._share))
        return Claim(num_unseen, shared, end, restored)

    def can_grant(self, claim: Claim, beside: Iterable[BlockTable]) -> bool:
        """Whether there is enough, and a block for each table of `beside` to grow into."""
        num_revived = sum(self._ref_counts[block] == 0 for block in claim.shared if block)
        num_taken = claim.num_new + num_revived
        return num_taken + self._num_growing(beside) <= self.num_free_blocks

    def grant(self, claim: Claim) -> BlockTable:
        """The table of a claim that can be granted."""
        for block in filter(None, claim.shared):
            self._cached.pop(block, None)
            self._ref_counts[block] += 1
        restored = iter(self._restore(claim.restored))
        shared = (block or next(restored) for block in claim.shared)
        table = block_table([*[0] * claim.num_unseen, *shared])
        self.extend(table, claim.end)
        return table

    def longest(self, table: BlockTable, beside: Iterable[BlockTable]) -> int:
        """How long `table` may become: any free block for its share, then what is left over."""
        num_free = self.num_free_blocks
        share_end = _num_given_back(table) + self._share
        if share_end >= len(table) + num_free:
            return len(table) + num_free
        return max(share_end, len(table) + max(0, num_free - self._num_growing(beside)))

    def extend(self, table: BlockTable, end: int) -> None:
        """Make `table` at least `end` blocks long; there must be enough."""
        table.extend(self._take() for _ in range(end - len(table)))

    def trim(self, table: BlockTable, end: int) -> None:
        """Give back what `table` holds before `end`, the last block first."""
        while end and table[end - 1]:
            end -= 1
            self._release(table[end])
            table[end] = 0

    def index(self, block: int, digest: bytes) -> None:
        """Make a held block findable. Content that is indexed already stays where it is."""
        if digest not in self._block_by_digest:
            self._block_by_digest[digest] = block
            self._digest_by_block[block] = digest

    def forget(self, digest: bytes) -> None:
        """Nobody shall find this content again, here or on the host."""
        self.host.forget(digest)
        block = self._block_by_digest.get(digest)
        if block is None:
            return
        self._unindex(block)
        if block in self._cached:
            del self._cached[block]
            self._blank.append(block)

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Raise IntegrityError unless free + held = all, `tables` being all that is held."""
        held = Counter(filter(None, chain.from_iterable(tables)))
        free = [*self._blank, *self._cached]
        if sorted([*held, *free]) != list(range(1, self.num_usable_blocks + 1)):
            raise IntegrityError(
                f"{len(held)} held and {len(free)} free blocks are not the "
                f"{self.num_usable_blocks} there are"
            )
        counted = {block: count for block, count in enumerate(self._ref_counts) if count}
        if counted != held:
            raise IntegrityError("reference counts differ from the sequences' block tables")
        if {block: digest for digest, block in self._block_by_digest.items()} != (
            self._digest_by_block
        ):
            raise IntegrityError("the two directions of the prefix index differ")
        if not self._cached.keys() <= self._digest_by_block.keys() or not (
            self._digest_by_block.keys().isdisjoint(self._blank)
        ):
            raise IntegrityError("a free block is on the wrong list")

    def _num_growing(self, tables: Iterable[BlockTable]) -> int:
        """How many of the tables may take a block before they have one to give back."""
        return sum(len(table) - _num_given_back(table) < self._share for table in tables)

    def _restore(self, digests: list[bytes]) -> list[int]:
        """A block for each of these, which only the host has; findable here from now on."""
        # To take blocks makes the host give up others: these must have been claimed before.
        places = [self.host.claim(digest) for digest in digests]
        blocks = [self._take() for _ in digests]
        for digest, place, block in zip(digests, places, blocks, strict=True):
            self.host.restore(place, block)
            self.index(block, digest)
        return blocks

    def _take(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self.host.save(self._digest_by_block[block], block)
            self._unindex(block)
        self._ref_counts[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._ref_counts[block] -= 1
        if self._ref_counts[block]:
            return
        if block in self._digest_by_block:
            self._cached[block] = None
        else:
            self._blank.append(block)

    def _unindex(self, block: int) -> None:
        digest = self._digest_by_block.pop(block, None)
        if digest is not None:
            del self._block_by_digest[digest]


def _num_given_back(table: BlockTable) -> int:
    """Blocks are given back in order: the zeros come first."""
    return bisect_left(table, 1)
