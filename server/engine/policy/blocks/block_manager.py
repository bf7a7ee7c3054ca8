"""Which KV blocks a sequence holds, of every kind of layers, and which prefix it need not compute.

Blocks are shared by prefix: a full block is indexed by a digest of all tokens up to its end. Where
layers look back over a window only, blocks outside it are given back. It knows nothing of arrays,
batches or policy.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from operator import ge

from server.engine.policy.blocks.block_pool import BlockPool
from server.engine.policy.blocks.host_pool import HostPool, HostPrefixes
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.blocks.snapshots import Snapshots
from server.engine.policy.sequences.block_moves import BlockMoves
from server.engine.policy.sequences.block_table import BlockTable
from server.engine.policy.sequences.sequence import Sequence
from server.engine.policy.sequences.snapshot import Snapshot

_DIGEST_BYTES = 16


class BlockManager:
    """One pool a kind; what is given to a sequence is given in all of them or in none.

    Digests begin with the version and adapter of a sequence: no KV of other weights is ever found.
    They have the images of a block too, and no part of an image is found without the rest.
    Unless `chunk` is 0, only prompt tokens are found, and only in whole chunks of that many tokens:
    the KV of a shorter chunk, or of a generated token, may differ in rounding. `num_host_blocks` is
    how many blocks of each kind host memory keeps when they leave their pool; () is none.
    With `snapshots`, layers have a state too: a prefix is found only where its state was kept.
    """

    def __init__(
        self,
        kinds: tuple[KVKind, ...],
        block_size: int,
        *,
        prefix_caching: bool = True,
        chunk: int = 0,
        num_host_blocks: tuple[int, ...] = (),
        snapshots: Snapshots | None = None,
    ) -> None:
        self.snapshots = snapshots
        sizes = num_host_blocks or (0,) * len(kinds)
        self.pools = tuple(
            BlockPool(kind, block_size, HostPool(size))
            for kind, size in zip(kinds, sizes, strict=True)
        )
        # Only these give blocks back while a sequence runs.
        self._windowed = [i for i, kind in enumerate(kinds) if kind.window is not None]
        self.num_restored_tokens = 0
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._shares_only_prompts = bool(chunk)
        # What is found ends at the end of a block, and of a chunk.
        self._blocks_found_at_once = math.lcm(chunk or block_size, block_size) // block_size

    @property
    def fullest(self) -> BlockPool:
        """The pool of which most is held: it says how much more the engine can take on."""
        return max(self.pools, key=lambda pool: pool.usage)

    @property
    def max_num_tokens(self) -> int:
        """The longest that one sequence can become: layers without a window keep all of it."""
        usable = [pool.num_usable_blocks for pool in self.pools if pool.kind.window is None]
        return min(usable, default=sys.maxsize) * self.block_size

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_shareable_blocks(self, num_tokens: int) -> int:
        """The most blocks a lookup may give: whole ones, never the last token, which must run."""
        return self._whole((num_tokens - 1) // self.block_size) if self.prefix_caching else 0

    def num_cached_tokens(self, seq: Sequence) -> int:
        """Tokens of `seq`, which holds no blocks, whose KV it would find."""
        return len(self._found(seq)[0]) * self.block_size

    def check_windows(self, max_chunk: int, max_num_tokens: int) -> None:
        """Raise ValueError unless a sequence that is alone can run to its end in such chunks."""
        for pool in self.pools:
            needed = pool.kind.blocks_for_one(max_chunk, max_num_tokens, self.block_size)
            if needed > pool.num_usable_blocks:
                raise ValueError(
                    f"{pool.num_usable_blocks} KV blocks of {self.block_size} tokens are too few "
                    f"for layers with a window of {pool.kind.window} tokens: one sequence in steps "
                    f"of {max_chunk} tokens needs {needed}"
                )

    def allocate(
        self, seq: Sequence, num_tokens: int, *, max_chunk: int, others: Iterable[Sequence] = ()
    ) -> bool:
        """Give `seq`, which holds none, the blocks of `num_tokens`, cached ones first.

        Layers with a window give what the first chunk needs, and no less than a window. Sets
        `block_tables` and `num_computed_tokens` (what was found). False, and nothing changed, when
        that would not leave each of `others` a block to grow into.
        """
        digests, num_matched = self._found(seq)
        num_computed_tokens = len(digests) * self.block_size
        chunk_end = self.num_blocks_for(num_computed_tokens + max_chunk)
        end = self.num_blocks_for(num_tokens)
        claims = [pool.claim(digests, chunk_end, end) for pool in self.pools]
        beside = self._tables(others)
        if not all(map(BlockPool.can_grant, self.pools, claims, beside)):
            return False
        seq.block_tables = tuple(map(BlockPool.grant, self.pools, claims))
        seq.num_indexed_blocks = len(digests)
        seq.num_computed_tokens = num_computed_tokens
        if self.snapshots is not None:
            seq.restored_slot = self.snapshots.use(digests[-1]) if digests else -1
            wanted = {num_matched * self.block_size, self._last_boundary(seq)}
            seq.kept_positions = tuple(sorted(at for at in wanted if at > num_computed_tokens))
        self.num_restored_tokens += max(len(each.restored) for each in claims) * self.block_size
        return True

    def begin_pass(self) -> None:
        """The rows of another step are chosen."""
        if self.snapshots is not None:
            self.snapshots.begin_pass()

    def settle(self, snapshot: Snapshot | None, *, is_sound: bool) -> None:
        """The step that was to keep a state was read."""
        if self.snapshots is not None and snapshot is not None:
            self.snapshots.settle(snapshot, is_sound=is_sound)

    def snapshot(self, seq: Sequence, end: int) -> Snapshot | None:
        """The state that a step which computes `seq` to `end` keeps; None if it keeps none.

        One is kept at the last whole block before the prompt's last token, because a longer prompt
        may begin with it; and where the prompt parts from one that was computed before, as another
        may do again.
        """
        if self.snapshots is None or not self.prefix_caching:
            return None
        positions = (at for at in seq.kept_positions if seq.num_computed_tokens < at <= end)
        position = next(positions, 0)
        if not position:
            return None
        digest = self._digest(seq, position // self.block_size - 1)
        return None if self.snapshots.has(digest) else self.snapshots.begin(digest, position)

    def _last_boundary(self, seq: Sequence) -> int:
        return (seq.num_prompt_tokens - 1) // self.block_size * self.block_size

    def grow(self, seq: Sequence, num_tokens: int, *, others: Iterable[Sequence] = ()) -> int:
        """Make room for the next `num_tokens`, or as many as there are blocks for: how many.

        What exceeds the windows of `seq` leaves each of `others` a block to grow into.
        """
        end = self.num_blocks_for(seq.num_computed_tokens + num_tokens)
        if all(len(table) >= end for table in seq.block_tables):
            return num_tokens
        beside = self._tables(other for other in others if other is not seq)
        longest = self._longest(seq, beside)
        if longest < end:
            # Better than to do without. What is in flight will be gone when it could be indexed.
            self.slide(seq, seq.num_computed_tokens)
            longest = self._longest(seq, beside)
        for pool, table in zip(self.pools, seq.block_tables, strict=True):
            pool.extend(table, min(end, longest))
        return min(num_tokens, longest * self.block_size - seq.num_computed_tokens)

    def index(self, seq: Sequence, num_tokens: int) -> None:
        """Make the full blocks among the first `num_tokens` findable, where they are still held.

        Their KV must be written by a step that was read, their tokens known.
        """
        num_tokens = min(num_tokens, self._num_findable_tokens(seq))
        num_full = self._whole(num_tokens // self.block_size) if self.prefix_caching else 0
        for i in range(seq.num_indexed_blocks, num_full):
            digest = self._digest(seq, i)
            for pool, table in zip(self.pools, seq.block_tables, strict=True):
                if table[i]:
                    pool.index(table[i], digest)
        seq.num_indexed_blocks = max(seq.num_indexed_blocks, num_full)

    def slide(self, seq: Sequence, num_tokens: int) -> None:
        """Give back the blocks that no token after the first `num_tokens` sees.

        The steps that computed those tokens may be in flight: who takes the blocks runs after them.
        """
        for kind in self._windowed:
            pool = self.pools[kind]
            pool.trim(seq.block_tables[kind], pool.first_block(num_tokens))

    def free(self, seq: Sequence) -> None:
        """Take all blocks back. The tail goes first in line for reuse: heads are shared more."""
        for pool, table in zip(self.pools, seq.block_tables, strict=True):
            pool.trim(table, len(table))
        seq.block_tables = ()
        seq.num_computed_tokens = 0
        seq.num_indexed_blocks = 0

    def forget(self, seq: Sequence) -> None:
        """Nobody shall find the content of `seq` again, given back or not: it is suspect."""
        for digest in seq.block_digests:
            for pool in self.pools:
                pool.forget(digest)
            if self.snapshots is not None:
                self.snapshots.forget(digest)

    @property
    def host(self) -> HostPrefixes:
        """Safe to call from another thread."""
        pools = [pool.host for pool in self.pools]
        return HostPrefixes(
            num_blocks=sum(each.num_blocks for each in pools),
            num_held=sum(map(len, pools)),
            num_saved=sum(each.num_saved for each in pools),
            num_restored=sum(each.num_restored for each in pools),
            num_refused=sum(each.num_refused for each in pools),
            num_restored_tokens=self.num_restored_tokens,
        )

    def take_moves(self) -> tuple[BlockMoves, ...]:
        """What must be copied from and to host memory before the next step, by kind; () if nothing.

        Steps run in the order of their dispatch, so a block's old content is still there.
        """
        moves = tuple(pool.host.take() for pool in self.pools)
        return moves if any(moves) else ()

    def check_integrity(self, seqs: Iterable[Sequence]) -> None:
        """Raise IntegrityError unless in every pool free + held = all, `seqs` being all holders."""
        for pool, tables in zip(self.pools, self._tables(seqs), strict=True):
            pool.check_integrity(tables)
        if self.snapshots is not None:
            self.snapshots.check_integrity()

    def _tables(self, seqs: Iterable[Sequence]) -> list[list[BlockTable]]:
        """The block tables of `seqs`, pool by pool."""
        tables = [seq.block_tables for seq in seqs]
        return [[each[i] for each in tables] for i in range(len(self.pools))]

    def _num_findable_tokens(self, seq: Sequence) -> int:
        """The tokens of `seq` that may be found, or made findable, before rounding to blocks."""
        return seq.num_prompt_tokens if self._shares_only_prompts else len(seq.token_ids)

    def _whole(self, num_blocks: int) -> int:
        """As many of these blocks as are found together."""
        return num_blocks - num_blocks % self._blocks_found_at_once

    def _longest(self, seq: Sequence, beside: list[list[BlockTable]]) -> int:
        """How many blocks long all tables of `seq` can be."""
        return min(map(BlockPool.longest, self.pools, seq.block_tables, beside))

    def _found(self, seq: Sequence) -> tuple[list[bytes], int]:
        """Digests of the longest prefix after which every pool still has all that the next token
        sees, and how many blocks long one would be that need not end where one may."""
        num_findable = self._num_findable_tokens(seq)
        limit = 0 if seq.needs_whole_prompt else self.num_shareable_blocks(num_findable)
        num_found, num_matched, runs = 0, 0, [0] * len(self.pools)
        for end in range(1, limit + 1):
            digest = self._digest(seq, end - 1)
            runs = [
                run + 1 if pool.has(digest) else 0
                for pool, run in zip(self.pools, runs, strict=True)
            ]
            seen = [end - pool.first_block(end * self.block_size) for pool in self.pools]
            if all(map(ge, runs, seen)):
                num_matched = end
                num_found = end if self._may_end(seq, end) else num_found
            elif runs[0] < end and self.pools[0].kind.window is None:
                break
        return seq.block_digests[:num_found], num_matched

    def _may_end(self, seq: Sequence, num_blocks: int) -> bool:
        """Whether what is found may end here: whole blocks of a chunk, no part of an image, and
        a state that was kept, where layers have one."""
        end = num_blocks * self.block_size
        if self.snapshots is not None and not self.snapshots.has(self._digest(seq, num_blocks - 1)):
            return False
        return self._whole(num_blocks) == num_blocks and seq.before_image(end) == end

    def _digest(self, seq: Sequence, i: int) -> bytes:
        """Digest of all tokens up to the end of block `i`; kept with the sequence."""
        digests = seq.block_digests
        while len(digests) <= i:
            start = len(digests) * self.block_size
            tokens = array("I", seq.token_ids[start : start + self.block_size])
            parent = digests[-1] if digests else _root(seq)
            content = tokens.tobytes() + _images(seq, start, start + self.block_size)
            digests.append(blake2b(parent + content, digest_size=_DIGEST_BYTES).digest())
        return digests[i]


def _images(seq: Sequence, start: int, end: int) -> bytes:
    """The images of whose tokens some lie from `start` to `end`, and where each begins.

    Their tokens are alike, and see all of the image: its KV is that of no other.
    """
    return b"".join(
        image.start.to_bytes(4, "little") + blake2b(image.digest).digest()
        for image in seq.images
        if image.start < end and image.start + image.num_tokens > start
    )


def _root(seq: Sequence) -> bytes:
    """What stands before the first block: the loadings of weights that its KV belongs to.

    An adapter changes the KV of every layer after the first that it changes.
    """
    weights = f"{seq.version.name}/{seq.version.number}" if seq.version else ""
    if seq.adapter is not None:
        weights += f":{seq.adapter.name}/{seq.adapter.version}/{seq.adapter.number}"
    return blake2b(weights.encode(), digest_size=_DIGEST_BYTES).digest()
