"""The ledger of one kind's KV blocks in host memory: what is kept there, and what moves next.

Content that leaves the device's prefix cache is saved, and is restored when a prompt finds it here.
Content is known by digests, as on the device. It knows neither arrays nor sequences.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from server.engine.policy.sequences.block_moves import BlockMoves, Move


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPrefixes:
    """What host memory keeps of the prefix cache, and what has moved so far.

    Blocks are those of all kinds of layers together. `num_restored_tokens` is of the kind of which
    most came back, each time.
    """

    num_blocks: int = 0
    num_held: int = 0
    num_saved: int = 0
    num_restored: int = 0
    num_refused: int = 0
    num_restored_tokens: int = 0

    @property
    def usage(self) -> float:
        """The part of the blocks that is in use, 0 to 1."""
        return self.num_held / self.num_blocks if self.num_blocks else 0.0


class HostPool:
    """`num_blocks` places, the least recently used given away first; 0 keeps nothing.

    A save can be found once it was taken: until then only the device has the content. Counts are
    in blocks; those of other threads may be read at any time.
    """

    def __init__(self, num_blocks: int = 0) -> None:
        self.num_blocks = num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        # Those not yet taken are the newest, so they are at the end.
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._untaken: set[bytes] = set()
        self._saves: list[Move] = []
        self._restores: list[Move] = []
        self.num_saved = self.num_restored = self.num_refused = 0

    def __len__(self) -> int:
        """The blocks that are kept."""
        return len(self._places)

    def has(self, digest: bytes) -> bool:
        """Whether the content with this digest can be restored."""
        return digest in self._places and digest not in self._untaken

    def save(self, digest: bytes, block: int) -> None:
        """The device is about to reuse `block`. Without a place its content is lost."""
        if digest in self._places:
            self._places.move_to_end(digest)
            return
        place = self._find_place()
        if place is None:
            self.num_refused += bool(self.num_blocks)
            return
        self._places[digest] = place
        self._untaken.add(digest)
        self._saves.append(Move(block, place))
        self.num_saved += 1

    def claim(self, digest: bytes) -> int:
        """The place of content that will be restored; it is the most recently used now."""
        self._places.move_to_end(digest)
        return self._places[digest]

    def restore(self, place: int, block: int) -> None:
        """Bring claimed content back into a block of the device, before the next step."""
        self._restores.append(Move(block, place))
        self.num_restored += 1

    def forget(self, digest: bytes) -> None:
        """Nobody shall find this content again."""
        place = self._places.pop(digest, None)
        if place is not None:
            self._untaken.discard(digest)
            self._blank.append(place)

    def take(self) -> BlockMoves:
        """What must be copied before the next step; to be asked once per step."""
        moves = BlockMoves(tuple(self._saves), tuple(self._restores))
        self._saves.clear()
        self._restores.clear()
        self._untaken.clear()
        return moves

    def _find_place(self) -> int | None:
        if self._blank:
            return self._blank.pop()
        digest = next(iter(self._places), None)
        if digest is None or digest in self._untaken:
            return None
        return self._places.pop(digest)
