"""What the host keeps of the device's blocks, and in which order it gives it up.

That nothing is lost, mixed up or found too early under any interleaving of requests is tested with
the scheduler, in `tests/engine/policy/test_scheduler_properties.py`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.host_pool import HostPool
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.sequence import LoadedVersion
from tests.engine.builders import make_sequence

A, B, C = b"a", b"b", b"c"


def test_what_was_saved_is_found_once_its_copy_was_taken():
    host = HostPool(2)
    host.save(A, 7)
    assert not host.has(A)
    assert host.take().saves == ((7, 0),)
    assert host.has(A)
    assert not host.take()


def test_the_least_recently_used_content_makes_room():
    host = HostPool(2)
    host.save(A, 1)
    host.save(B, 2)
    host.take()
    host.save(A, 3)  # It is here already: used again, and not copied.
    host.save(C, 4)
    assert host.take().saves == ((4, 1),)
    assert [host.has(digest) for digest in (A, B, C)] == [True, False, True]


def test_content_that_will_be_restored_is_the_most_recently_used():
    host = HostPool(2)
    host.save(A, 1)
    host.save(B, 2)
    host.take()
    place = host.claim(A)
    host.save(C, 3)
    host.restore(place, 3)
    moves = host.take()
    assert (moves.saves, moves.restores) == (((3, 1),), ((3, 0),))
    assert (host.has(A), host.has(B)) == (True, False)


def test_a_save_is_refused_where_all_places_wait_for_their_copy():
    host = HostPool(1)
    host.save(A, 1)
    host.save(B, 2)
    assert (host.num_saved, host.num_refused) == (1, 1)
    assert host.take().saves == ((1, 0),)
    assert not host.has(B)


def test_without_places_nothing_is_kept_and_nothing_counted():
    host = HostPool()
    host.save(A, 1)
    assert not host.take()
    assert (len(host), host.num_refused) == (0, 0)


def test_what_is_forgotten_is_not_found_and_its_place_is_free():
    host = HostPool(1)
    host.save(A, 1)
    host.take()
    host.forget(A)
    host.forget(B)
    assert not host.has(A)
    host.save(B, 2)
    assert host.take().saves == ((2, 0),)


digests = st.sampled_from([bytes([i]) for i in range(6)])
actions = st.lists(st.tuples(st.sampled_from(["save", "restore", "forget", "take"]), digests))


@given(num_blocks=st.integers(0, 4), actions=actions)
def test_a_restore_finds_what_was_saved_under_its_digest(num_blocks, actions):
    """A device whose block 1 holds the content that leaves, and a host that does what it is told.

    A restore reads its place before the saves of the same step are written.
    """
    host, places, wanted, content = HostPool(num_blocks), {}, [], {}
    for action, digest in [*actions, ("take", b"")]:
        if action == "save":
            content[len(content) + 1] = digest
            host.save(digest, len(content))
        elif action == "restore" and host.has(digest):
            host.restore(host.claim(digest), 0)
            wanted.append(digest)
        elif action == "forget":
            host.forget(digest)
        elif action == "take":
            moves = host.take()
            assert [places[place] for _, place in moves.restores] == wanted
            wanted.clear()
            places |= {place: content[block] for block, place in moves.saves}
        assert len(host) <= num_blocks
        assert all(place < num_blocks for place in places)


def fill(blocks, prompt, version=None):
    """Run a sequence of this prompt to its end; how many tokens it found, and what moves."""
    seq = make_sequence(prompt)
    seq.version = version or LoadedVersion("1", 1)
    assert blocks.allocate(seq, len(prompt) + 1, max_chunk=len(prompt))
    found, moves = seq.num_computed_tokens, blocks.take_moves()
    blocks.index(seq, len(prompt))
    blocks.free(seq)
    return found, moves


def test_a_prompt_comes_back_from_the_host_after_others_took_its_blocks():
    blocks = BlockManager((KVKind(None, 4),), 2, num_host_blocks=(8,))
    assert fill(blocks, [1, 2, 3, 4, 5]) == (0, ())
    _, (moves,) = fill(blocks, [6, 7, 8, 9, 10])
    assert len(moves.saves) == 2
    found, (moves,) = fill(blocks, [1, 2, 3, 4, 5])
    assert (found, len(moves.restores)) == (4, 2)
    assert blocks.num_restored_tokens == 4


def test_content_that_comes_back_is_read_before_what_it_pushes_out_takes_its_place():
    """The host has room for one of two prompts, and each pushes the other out as it comes back."""
    blocks = BlockManager((KVKind(None, 4),), 2, num_host_blocks=(2,))
    fill(blocks, [1, 2, 3, 4, 5])
    fill(blocks, [6, 7, 8, 9, 10])
    for prompt in ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) * 2:
        found, (moves,) = fill(blocks, prompt)
        assert found == 4
        places = {move.place for move in moves.restores}
        assert places == {move.place for move in moves.saves} == {0, 1}


def test_the_host_keeps_content_for_the_version_that_made_it():
    blocks = BlockManager((KVKind(None, 4),), 2, num_host_blocks=(8,))
    first, second = LoadedVersion("1", 1), LoadedVersion("2", 2)
    fill(blocks, [1, 2, 3, 4, 5], first)
    assert fill(blocks, [1, 2, 3, 4, 5], second)[0] == 0
    assert fill(blocks, [1, 2, 3, 4, 5], first)[0] == 4
    assert fill(blocks, [1, 2, 3, 4, 5], LoadedVersion("1", 3))[0] == 0
