"""Blocks that went to host memory and came back give the tokens of those that never left.

The engine of `test_identity.py`, whose device has too few blocks for all prompts, with room for
more on the host. In float32 tokens are compared with those of the same requests computed anew.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from server.engine.device.host_blocks import HostBlocks
from server.engine.policy.sequences.block_moves import BlockMoves, Move
from server.engine.programs.block_programs import MOVED_BLOCKS
from tests.engine.device.test_identity import FILTERS, Session, build, make_request

REQUESTS = [
    make_request(0, 70, temperature=0.0),
    make_request(100, 65, temperature=1.0, seed=7, n=2),
    make_request(300, 90, seed=11, **FILTERS),
]
OTHERS = [make_request(600 + 90 * i, 80, max_tokens=2, temperature=0.0) for i in range(3)]
# A sequence of 114 tokens takes 8 blocks of 16: these are too few for three at a time.
NUM_BLOCKS = 14


@pytest.fixture(scope="module")
def base():
    runner, config = build(
        num_blocks=NUM_BLOCKS, prefix_host_bytes=64 << 20, max_num_seqs=4, max_num_batched_tokens=32
    )
    assert runner.num_host_blocks[0] > 60
    return runner, config


@pytest.mark.parametrize("overlap", [True, False])
def test_tokens_are_those_of_prefixes_that_were_computed_anew(base, overlap):
    """The second time every prompt comes back from the host, because others took its blocks."""
    session = Session(*base, overlap=overlap)
    expected = session.run(REQUESTS)
    assert session.observer.num_preempted > 0
    session.run(OTHERS)
    pool = session.blocks[0].pools[0]
    before = pool.host.num_restored
    found = [session.run([request]) for request in REQUESTS]
    assert {
        (i, choice): tokens for i, one in enumerate(found) for (_, choice), tokens in one.items()
    } == expected
    assert pool.host.num_restored - before >= 4 + 4
    assert session.num_cached_tokens >= 80
    session.run(REQUESTS)
    assert session.run(REQUESTS) == expected


def test_blocks_come_back_bit_by_bit_in_every_layer(base):
    """More than one program moves at once, through the memory that the copies use."""
    executor = base[0]._executor
    host = HostBlocks(executor.blueprint)
    host.start(*(executor._host_blocks._save, executor._host_blocks._restore))
    rng = np.random.default_rng(0)
    pools = jax.tree.map(
        lambda leaf: jax.device_put(
            rng.standard_normal(leaf.shape).astype(leaf.dtype), leaf.sharding
        ),
        executor._state.kv,
    )
    before = jax.device_get(pools)
    blocks = list(range(1, MOVED_BLOCKS + 4))
    saves = tuple(Move(block, 20 + block) for block in blocks)
    pools = host.move(pools, (BlockMoves(saves=saves),))
    pools = jax.tree.map(lambda leaf: leaf.at[:].set(0), pools)
    back = tuple(Move(block + 1, 20 + block) for block in blocks)
    after = jax.device_get(host.move(pools, (BlockMoves(restores=back),)))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(new[2 : MOVED_BLOCKS + 5], old[1 : MOVED_BLOCKS + 4])
        assert not new[MOVED_BLOCKS + 5 :].any()


def test_copies_go_through_pinned_memory_as_well(base):
    """As on an accelerator; a CPU's devices have that kind of memory too."""
    executor = base[0]._executor
    host = HostBlocks(executor.blueprint)
    host._pinned = executor.blueprint.programs().blocks.staged_shardings("pinned_host")
    host.start(executor._host_blocks._save, executor._host_blocks._restore)
    kv = jax.tree.map(lambda leaf: leaf + 1, executor._state.kv)
    before = jax.device_get(kv)
    kv = host.move(kv, (BlockMoves(saves=(Move(3, 0),)),))
    after = jax.device_get(host.move(kv, (BlockMoves(restores=(Move(5, 0),)),)))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(new[5], old[3])
