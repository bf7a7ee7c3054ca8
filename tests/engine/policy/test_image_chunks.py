"""No step cuts an image: chunks end before one that does not fit whole, and it waits for room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.policy.blocks.layer_kinds import KVKind
from tests.engine.builders import make_image, make_ranks
from tests.engine.policy.test_scheduler import add, finish_all, run, shape

IMAGE = 6
MAX_SEQS, BUDGET = 4, IMAGE + 4


def make(**limits):
    defaults = {
        "max_num_seqs": MAX_SEQS,
        "max_num_batched_tokens": BUDGET,
        "image_tokens": IMAGE,
        "num_blocks": 40,
    }
    return make_ranks(**(defaults | limits))


def images_at(*starts):
    return [make_image(start, IMAGE, b"image %d" % start) for start in starts]


def test_a_chunk_ends_before_an_image_that_does_not_fit_whole():
    scheduler = make()
    add(scheduler, range(21), images=images_at(7, 14), max_tokens=0)
    assert shape(run(scheduler)[0]) == [(0, 0, 7)]
    assert shape(run(scheduler)[0]) == [(0, 7, 7)]
    assert shape(run(scheduler)[0]) == [(0, 14, 7)]


def test_a_prompt_that_begins_with_an_image_waits_for_a_step_with_room():
    scheduler = make()
    add(scheduler, range(6), request_id=0, max_tokens=0)
    add(scheduler, range(8), request_id=1, images=images_at(0), max_tokens=0)
    add(scheduler, range(1), request_id=2, max_tokens=0)
    assert shape(run(scheduler)[0]) == [(0, 0, 6)]
    assert shape(run(scheduler)[0]) == [(1, 0, 8), (2, 0, 1)]


def test_a_row_has_the_images_whose_tokens_it_computes():
    scheduler = make()
    seq = add(scheduler, range(21), images=images_at(1, 14), max_tokens=0)
    found = []
    while scheduler.num_unfinished:
        found += [row.images for row in run(scheduler)[0].rows]
    assert found == [seq.images[:1], seq.images[1:], ()]


def test_short_prompts_that_keep_coming_do_not_keep_an_image_out():
    scheduler = make(max_num_seqs=3, max_queue_len=99)
    add(scheduler, range(9), request_id=0, images=images_at(3), max_tokens=0)
    for request_id in range(1, 60):
        add(scheduler, range(4), request_id=request_id, max_tokens=0)
    steps = [shape(run(scheduler)[0]) for _ in range(3)]
    assert sum(num for step in steps for request, _, num in step if request == 0) == 9


def test_a_prompt_preempted_within_its_images_computes_them_again():
    scheduler = make(num_blocks=9, prefix_caching=False)
    first = add(scheduler, range(13), request_id=0, images=images_at(3), max_tokens=18)
    second = add(scheduler, range(13), request_id=1, images=images_at(3), max_tokens=18)
    finish_all(scheduler)
    assert len(first.token_ids) == len(second.token_ids) == 31


def test_exact_chunks_are_cut_by_the_prompt_alone_and_around_an_image():
    """At multiples of 10, but for the images that lie across 10 and 30."""
    scheduler = make(exact=True)
    add(scheduler, range(37), images=images_at(7, 20, 26), max_tokens=0)
    steps = []
    while scheduler.num_unfinished:
        steps += shape(run(scheduler)[0])
    assert steps == [(0, 0, 7), (0, 7, 6), (0, 13, 7), (0, 20, 6), (0, 26, 6), (0, 32, 5)]


@st.composite
def prompts(draw):
    """A length, and where images begin."""
    starts, end = [], 0
    for gap in draw(st.lists(st.integers(0, 5), max_size=3)):
        starts.append(end + gap)
        end = starts[-1] + IMAGE
    return max(1, end + draw(st.integers(0, 9))), starts


@settings(max_examples=100)
@given(
    requests=st.lists(prompts(), min_size=1, max_size=8),
    num_blocks=st.integers(14, 40),
    num_window_blocks=st.none() | st.integers(6, 14),
    num_choices=st.integers(1, 2),
    exact=st.booleans(),
)
def test_every_image_runs_whole_and_everybody_ends(
    requests, num_blocks, num_window_blocks, num_choices, exact
):
    window = [KVKind(5, num_window_blocks)] if num_window_blocks else []
    kinds = (KVKind(None, num_blocks), *window)
    scheduler = make(kinds=kinds, max_queue_len=99, exact=exact)
    for request_id, (length, starts) in enumerate(requests):
        prompt, images = [7] * length, images_at(*starts)
        add(scheduler, prompt, num_choices, request_id=request_id, images=images, max_tokens=4)
    for _ in range(600):
        if not scheduler.num_unfinished:
            break
        batch, _ = run(scheduler)
        for row in batch.rows:
            assert row.num_scheduled_tokens > 0
            for image in row.seq.images:
                first, last = image.start, image.start + IMAGE - 1
                chunk = range(row.num_computed_tokens, row.end)
                assert (first in chunk) == (last in chunk)
    assert not scheduler.num_unfinished, "somebody waits for ever"
    finish_all(scheduler)


@pytest.mark.parametrize("budget", [IMAGE + 1, 2 * IMAGE])
def test_an_image_runs_next_to_the_decodes_of_everybody_else(budget):
    scheduler = make(max_num_seqs=2, max_num_batched_tokens=budget)
    add(scheduler, range(3), request_id=0, max_tokens=20)
    run(scheduler)
    add(scheduler, range(8), request_id=1, images=images_at(1), max_tokens=2)
    steps = [shape(run(scheduler)[0]) for _ in range(3)]
    assert all((0, 3 + i, 1) in step for i, step in enumerate(steps))
    assert sum(num for step in steps for request, _, num in step if request == 1) >= 7
    finish_all(scheduler)
