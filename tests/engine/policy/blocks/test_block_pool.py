from __future__ import annotations

import pytest

from server.engine.policy.blocks.block_pool import BlockPool, IntegrityError
from server.engine.policy.blocks.layer_kinds import KVKind

A, B = b"a", b"b"


def make_pool(num_blocks=9, window=8):
    """Blocks of 4 tokens; a sequence's share of a window of 8 is 3 blocks."""
    return BlockPool(KVKind(window, num_blocks), 4)


def grant(pool, end, digests=()):
    claim = pool.claim(list(digests), end, end)
    assert pool.can_grant(claim, [])
    return pool.grant(claim)


def test_a_claim_is_the_first_chunk_or_the_share_or_all_whichever_is_enough():
    pool = make_pool()
    assert [pool.claim([], chunk_end, 10).num_new for chunk_end in (1, 3, 5)] == [3, 3, 5]
    assert pool.claim([], 5, 2).num_new == 2
    assert make_pool(window=None).claim([], 1, 10).num_new == 10


def test_a_claim_of_what_is_found_leaves_out_what_is_out_of_sight():
    pool = make_pool()
    table = grant(pool, 2)
    pool.index(table[0], A)
    pool.index(table[1], B)
    claim = pool.claim([b"gone", A, B], 4, 10)
    assert (claim.num_unseen, claim.shared, claim.end) == (1, list(table), 4)
    assert list(pool.grant(claim)) == [0, *table, 3]
    assert pool.num_free_blocks == 5
    pool.check_integrity([table, [0, *table, 3]])


def test_free_content_that_a_claim_revives_is_not_free_for_its_new_blocks():
    pool = make_pool(4)
    table = grant(pool, 2)
    pool.index(table[1], A)
    pool.trim(table, 2)
    assert pool.can_grant(pool.claim([A], 3, 3), [])
    assert not pool.can_grant(pool.claim([A], 4, 4), [])
    assert pool.can_grant(pool.claim([], 3, 3), [])


def test_only_tables_below_their_share_will_grow():
    pool = make_pool(9)
    claim = pool.claim([], 6, 6)
    full, sliding = grant(pool, 3), [0, 0, 0, *grant(make_pool(), 3)]
    assert pool.can_grant(claim, []) is False
    claim = pool.claim([], 5, 5)
    assert pool.can_grant(claim, [full, sliding])
    assert not pool.can_grant(claim, [full, full[:2]])
    assert not pool.can_grant(claim, [full, [0, 0, *full[:2]]])


def test_a_table_takes_any_free_block_for_its_share_and_beyond_it_what_others_leave():
    pool = make_pool(6)
    short, growing = grant(pool, 1), [5]
    assert pool.num_free_blocks == 4
    assert pool.longest(short, []) == 5
    assert pool.longest(short, [growing] * 2) == 3
    assert pool.longest(short, [growing] * 9) == 3
    grant(pool, 3)
    assert pool.longest(short, [growing] * 9) == 2


def test_trimming_gives_back_what_is_left_before_the_end():
    pool = make_pool()
    table = grant(pool, 4)
    pool.trim(table, 2)
    assert [block > 0 for block in table] == [False, False, True, True]
    pool.trim(table, 3)
    pool.trim(table, 1)
    assert [block > 0 for block in table] == [False, False, False, True]
    pool.check_integrity([table])


def test_forgotten_content_is_reused_like_any_other_whether_it_is_held_or_free():
    pool = make_pool(3)
    held, free = grant(pool, 1), grant(pool, 1)
    pool.index(held[0], A)
    pool.index(free[0], B)
    pool.trim(free, 1)
    for digest in (A, B, b"never there"):
        pool.forget(digest)
        assert not pool.has(digest)
    pool.check_integrity([held])
    assert pool.num_free_blocks == 1
    pool.trim(held, 1)
    pool.check_integrity([])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([], "0 held and 6 free blocks are not the 8 there are"),
        ([[1, 2], [2]], "reference counts"),
        ([[1, 2, 3]], "3 held and 6 free"),
    ],
)
def test_tables_that_do_not_add_up_are_noticed(tables, message):
    pool = make_pool()
    assert list(grant(pool, 2)) == [1, 2]
    pool.check_integrity([[0, 1, 2]])
    with pytest.raises(IntegrityError, match=message):
        pool.check_integrity(tables)


def test_an_index_that_contradicts_itself_is_noticed():
    pool = make_pool()
    pool._digest_by_block[1] = A
    with pytest.raises(IntegrityError, match="two directions"):
        pool.check_integrity([])
    pool._block_by_digest[A] = 1
    with pytest.raises(IntegrityError, match="wrong list"):
        pool.check_integrity([])
