from __future__ import annotations

import pytest
from antipode.errors import ServerError
from antipode.resilience.progress import Progress
from antipode.types import Delta, Event, Start, Usage

START = Start(request_id="r", model="m", model_version="1", seed=7, prompt_token_ids=(1, 2))
USAGE = Usage(num_prompt_tokens=2, num_generated_tokens=3, num_cached_tokens=0)


def tokens(*token_ids, index=0, end=None, start=None):
    delta = Delta(index=index, text="x", token_ids=token_ids, finish_reason=end)
    return Event(start=start, delta=delta)


def test_nothing_received_is_nothing_to_go_on_from():
    progress = Progress(1)
    assert progress.resume is None
    progress.take(Event(start=START))
    assert progress.resume is None


def test_what_was_received_by_choice():
    progress = Progress(2)
    progress.take(tokens(5, start=START))
    progress.take(tokens(6, 7, index=1))
    progress.take(tokens(8))
    assert progress.resume.received == ((5, 8), (6, 7))
    assert progress.resume.start == START


def test_the_end_of_a_choice_is_passed_on_once():
    progress = Progress(2)
    assert progress.take(tokens(5, start=START, end="length"))
    assert progress.take(Event(delta=Delta(index=0, finish_reason="length"))) is None
    assert progress.take(tokens(6, index=1, end="stop"))
    assert not progress.is_complete
    progress.take(Event(usage=USAGE))
    assert progress.is_complete


def test_a_try_that_brought_nothing_leaves_no_trace():
    progress = Progress(1)
    progress.take(Event(start=START))
    other = Start(request_id="r", model="m", model_version="2", seed=8, prompt_token_ids=(1, 2))
    progress.take(tokens(5, start=other))
    assert progress.resume.start == other


def test_every_chunk_may_tell_the_start_but_one_alone_has_the_prompt():
    progress = Progress(1)
    progress.take(Event(start=START))
    later = Start(request_id="r", model="m", model_version="1", seed=7)
    progress.take(tokens(5, start=later))
    assert progress.resume.start.prompt_token_ids == (1, 2)


@pytest.mark.parametrize("other", [{"seed": 8}, {"model_version": "2"}])
def test_a_server_that_goes_on_with_something_else_is_found_out(other):
    progress = Progress(1)
    progress.take(tokens(5, start=START))
    fields = {"request_id": "r", "model": "m", "model_version": "1", "seed": 7} | other
    with pytest.raises(ServerError, match="another seed or model version"):
        progress.take(Event(start=Start(**fields)))
