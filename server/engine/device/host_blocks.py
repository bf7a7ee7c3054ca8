"""KV blocks in this host's memory: copies them from the device's pools, and back.

Copies to the host run next to the steps; they land in their places before the next copies begin.
Policy says which block goes to which place. Knows neither digests nor sequences.
"""

from __future__ import annotations

from collections import deque
from itertools import zip_longest
from typing import Any

import jax
import numpy as np

from models.decoder.decoder import KVPools
from server.engine.policy.sequences.block_moves import BlockMoves, Move
from server.engine.programs.block_programs import MOVED_BLOCKS
from server.engine.programs.blueprint.blueprint import Blueprint

# Copies on their way, each of MOVED_BLOCKS blocks: they take the device's memory.
_MOST_STAGED = 4


class HostBlocks:
    """Has `sizes.num_host_blocks` places of each kind. `start` comes before the first move.

    Pages of a place are taken from the machine when the place is first used.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        programs = blueprint.programs().blocks
        assert programs is not None
        self._num_kinds = len(blueprint.sizes.kinds)
        self._kinds = programs.kinds
        self._places: list[list[np.ndarray]] = [
            [
                np.empty((blueprint.sizes.num_host_blocks[kind], *leaf.shape[1:]), leaf.dtype)
                for leaf in jax.tree.leaves(blocks)
            ]
            for kind, blocks in zip(self._kinds, programs.staged, strict=True)
        ]
        self._structure = jax.tree.structure(programs.staged)
        self._pinned = programs.staged_shardings("pinned_host") if _has_pinned(blueprint) else None
        self._staged: deque[tuple[list[list[Move]], Any]] = deque()

    def start(self, save: jax.stages.Compiled, restore: jax.stages.Compiled) -> None:
        """Take the compiled programs."""
        self._save, self._restore = save, restore

    def run_once(self, pools: KVPools) -> KVPools:
        """Run both programs on padding."""
        nothing: list[list[Move]] = [[] for _ in range(self._num_kinds)]
        self._stage(nothing, pools)
        self._land(0)
        restored: KVPools = self._restore(pools, _numbers(nothing), self._gather(nothing))
        return restored

    def move(self, pools: KVPools, moves: tuple[BlockMoves, ...]) -> KVPools:
        """Dispatch the copies that must precede the next step; the pools that it is to get.

        A restore reads its place before the saves of the same call land there.
        """
        self._land(0)
        restores = list(_parts([each.restores for each in moves]))
        blocks = [self._gather(part) for part in restores]
        for part in _parts([each.saves for each in moves]):
            self._land(_MOST_STAGED - 1)
            self._stage(part, pools)
        for i, (part, staged) in enumerate(zip(restores, blocks, strict=True), start=1):
            pools = self._restore(pools, _numbers(part), staged)
            if i % _MOST_STAGED == 0:
                jax.block_until_ready(pools)
        return pools

    def _stage(self, part: list[list[Move]], pools: KVPools) -> None:
        staged = self._save(pools, _numbers(part))
        if self._pinned is not None:
            staged = jax.device_put(staged, self._pinned)
        else:
            for leaf in jax.tree.leaves(staged):
                leaf.copy_to_host_async()
        self._staged.append((part, staged))

    def _land(self, most: int) -> None:
        """Put all but the `most` newest copies into their places."""
        while len(self._staged) > most:
            part, staged = self._staged.popleft()
            for kind, places, blocks in zip(self._kinds, self._places, staged, strict=True):
                wanted = [move.place for move in part[kind]]
                for place, leaf in zip(places, jax.tree.leaves(blocks), strict=True):
                    if wanted:
                        place[wanted] = np.asarray(leaf)[: len(wanted)]

    def _gather(self, part: list[list[Move]]) -> Any:
        """The content of the places, as the program takes it."""
        leaves = []
        for kind, places in zip(self._kinds, self._places, strict=True):
            wanted = [move.place for move in part[kind]]
            for place in places:
                blocks = np.zeros((MOVED_BLOCKS, *place.shape[1:]), place.dtype)
                blocks[: len(wanted)] = place[wanted]
                leaves.append(blocks)
        return jax.tree.unflatten(self._structure, leaves)


def _parts(moves: list[tuple[Move, ...]]) -> Any:
    """As many moves of each kind as one program does, until all are done."""
    parts = [
        [list(of_kind[i : i + MOVED_BLOCKS]) for i in range(0, len(of_kind), MOVED_BLOCKS)]
        for of_kind in moves
    ]
    return map(list, zip_longest(*parts, fillvalue=[]))


def _numbers(part: list[list[Move]]) -> np.ndarray:
    """The numbers [K, N] of the device's blocks; 0, which takes padding, where there is none."""
    numbers = np.zeros((len(part), MOVED_BLOCKS), np.int32)
    for kind, moves in enumerate(part):
        numbers[kind, : len(moves)] = [move.block for move in moves]
    return numbers


def _has_pinned(blueprint: Blueprint) -> bool:
    """Whether a copy to the host goes through pinned memory. A CPU's memory is the host's."""
    device = blueprint.mesh.local_devices[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    return device.platform != "cpu" and "pinned_host" in kinds
