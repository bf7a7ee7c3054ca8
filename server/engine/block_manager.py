"""The host's ledger of KV blocks: who holds which, and which content can be found again.

Blocks are reference-counted and shared by prefix: a full block is indexed by a digest of all tokens
up to its end. It knows nothing of arrays, batches or policy.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain

from server.engine.sequence import Sequence

_DIGEST_BYTES = 16


class IntegrityError(Exception):
    """The ledger contradicts itself: a bug, and no reason to go on serving."""


class BlockManager:
    """Hands out blocks 1..num_blocks-1; block 0 takes the writes of padding and is never given.

    A free block whose content is indexed stays findable until it is needed, least recently used
    first. `seed` is the model version: no KV of other weights is ever found.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, seed: str = "", prefix_caching: bool = True
    ) -> None:
        if num_blocks < 2 or block_size < 1:
            raise ValueError(
                f"{num_blocks} blocks of {block_size} tokens hold nothing: "
                "at least 2 blocks (one is padding) of at least 1 token are needed"
            )
        self.num_usable_blocks = num_blocks - 1
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._root = blake2b(seed.encode(), digest_size=_DIGEST_BYTES).digest()
        self._ref_counts = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._block_by_digest: dict[bytes, int] = {}
        self._digest_by_block: dict[int, bytes] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks nobody holds, those with findable content included."""
        return len(self._blank) + len(self._cached)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_shareable_blocks(self, num_tokens: int) -> int:
        """The most blocks a lookup may give: whole ones, never the last token, which must run."""
        return (num_tokens - 1) // self.block_size if self.prefix_caching else 0

    def allocate(self, seq: Sequence, num_tokens: int, *, num_spare: int = 0) -> bool:
        """Give `seq`, which holds none, the blocks of `num_tokens`, cached ones first.

        Sets `block_table` and `num_computed_tokens` (what was found). False, and nothing changed,
        when that would leave fewer than `num_spare` blocks free.
        """
        shared = self._find(seq)
        num_new = self.num_blocks_for(num_tokens) - len(shared)
        num_revived = sum(self._ref_counts[block] == 0 for block in shared)
        if num_new + num_revived + num_spare > self.num_free_blocks:
            return False
        for block in shared:
            self._cached.pop(block, None)
            self._ref_counts[block] += 1
        seq.block_table = shared + [self._take() for _ in range(num_new)]
        seq.num_indexed_blocks = len(shared)
        seq.num_computed_tokens = len(shared) * self.block_size
        return True

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Extend the blocks of `seq` to hold `num_tokens`; False, and unchanged, if too few."""
        num_new = self.num_blocks_for(num_tokens) - len(seq.block_table)
        if num_new > self.num_free_blocks:
            return False
        seq.block_table.extend(self._take() for _ in range(num_new))
        return True

    def index(self, seq: Sequence, num_tokens: int) -> None:
        """Make the full blocks among the first `num_tokens` findable.

        Their KV must be written by a step that was read, their tokens known. Content that is
        indexed already stays where it is.
        """
        num_full = num_tokens // self.block_size if self.prefix_caching else 0
        for i in range(seq.num_indexed_blocks, num_full):
            digest, block = self._digest(seq, i), seq.block_table[i]
            if digest not in self._block_by_digest:
                self._block_by_digest[digest] = block
                self._digest_by_block[block] = digest
        seq.num_indexed_blocks = max(seq.num_indexed_blocks, num_full)

    def free(self, seq: Sequence) -> None:
        """Take all blocks back. The tail goes first in line for reuse: heads are shared more."""
        for block in reversed(seq.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if block in self._digest_by_block:
                self._cached[block] = None
            else:
                self._blank.append(block)
        seq.block_table = []
        seq.num_computed_tokens = 0
        seq.num_indexed_blocks = 0

    def forget(self, seq: Sequence) -> None:
        """Nobody shall find the content of the blocks of `seq` again: it is suspect."""
        for block in seq.block_table:
            self._unindex(block)

    def check_integrity(self, block_tables: Iterable[list[int]]) -> None:
        """Raise IntegrityError unless free + held = all, `block_tables` being all that is held."""
        held = Counter(chain.from_iterable(block_tables))
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

    def _find(self, seq: Sequence) -> list[int]:
        if seq.needs_whole_prompt:
            return []
        found: list[int] = []
        for i in range(self.num_shareable_blocks(len(seq.token_ids))):
            block = self._block_by_digest.get(self._digest(seq, i))
            if block is None:
                break
            found.append(block)
        return found

    def _digest(self, seq: Sequence, i: int) -> bytes:
        """Digest of all tokens up to the end of block `i`; kept with the sequence."""
        digests = seq.block_digests
        while len(digests) <= i:
            start = len(digests) * self.block_size
            tokens = array("I", seq.token_ids[start : start + self.block_size])
            parent = digests[-1] if digests else self._root
            digests.append(blake2b(parent + tokens.tobytes(), digest_size=_DIGEST_BYTES).digest())
        return digests[i]

    def _take(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._unindex(block)
        self._ref_counts[block] = 1
        return block

    def _unindex(self, block: int) -> None:
        digest = self._digest_by_block.pop(block, None)
        if digest is not None:
            del self._block_by_digest[digest]
