"""Generations as readers see them: merged, ended, failed, given up."""

from __future__ import annotations

import asyncio

import pytest

from server.api.generation_service import GenerationService
from server.api.requests.generation import GenerateRequest, Sampling, Usage
from server.errors import ApiError, ErrorKind
from server.link.sampling import Grammar
from tests.api.fakes import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    """Says nothing by itself."""
    return FakeEngine(None)


async def started(service: GenerationService, engine: FakeEngine, token_ids: list[int], **options):
    """A generation whose first event has come."""
    n = options.pop("n", 1)
    request = GenerateRequest(prompt="hello", n=n, sampling=Sampling(**options))
    starting = asyncio.create_task(service.start(request))
    while not engine.submitted:
        await asyncio.sleep(0)
    engine.emit(token_ids)
    return await starting


async def test_a_reader_that_is_behind_gets_one_delta_per_choice(service, engine, ids):
    generation = await started(service, engine, ids("hello"), n=2)
    engine.emit(ids(" wor"))
    engine.emit(ids("x"), index=1)
    engine.emit(ids("ld"))
    deltas = await generation.take()
    assert [(delta.index, delta.text) for delta in deltas] == [(0, "hello world"), (1, "x")]
    await generation.aclose()


async def test_a_reader_that_keeps_up_gets_each_step(service, engine, ids):
    generation = await started(service, engine, ids("hello"))
    assert [delta.text for delta in await generation.take()] == ["hello"]
    waiting = asyncio.create_task(generation.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    engine.emit(ids(" wor"))
    assert [delta.text for delta in await waiting] == [" wor"]
    await generation.aclose()


async def test_iterating_ends_with_the_last_choice(service, engine, ids):
    generation = await started(service, engine, ids("a"), n=2)
    engine.emit(ids("b"), finish_reason="length")
    engine.emit(ids("c"), index=1, finish_reason="length")
    async with generation:
        deltas = [delta async for delta in generation]
    assert {delta.index: delta.text for delta in deltas} == {0: "ab", 1: "c"}
    assert await generation.take() == []


async def test_usage_counts_every_choice_and_the_prompt_once(service, engine, ids):
    generation = await started(service, engine, ids("a"), n=2)
    engine.emit(ids("bc"), index=1)
    await generation.take()
    assert generation.usage == Usage(
        num_prompt_tokens=1, num_generated_tokens=3, num_cached_tokens=0
    )
    await generation.aclose()


async def test_a_finished_stream_is_not_aborted(service, engine, ids):
    async with await started(service, engine, ids("a")) as generation:
        engine.emit(ids("b"), finish_reason="length")
        await generation.take()
    assert engine.aborted == []
    assert engine.open == {}


async def test_leaving_early_aborts_once_and_forgets(service, engine, ids):
    async with await started(service, engine, ids("a")) as generation:
        pass
    await generation.aclose()
    assert engine.aborted == [(1, None, "abort")]
    assert engine.open == {}


async def test_a_stop_string_ends_its_choice_at_the_engine_only(service, engine, ids):
    async with await started(service, engine, ids("a"), n=2, stop=("!",)) as generation:
        engine.emit(ids("b!"), index=0)
        await generation.take()
        assert engine.aborted == [(1, 0, "stop")]
        assert not generation.is_finished
        engine.emit(ids("c!"), index=1)
        await generation.take()
        assert generation.is_finished
    assert engine.aborted == [(1, 0, "stop"), (1, 1, "stop")]


async def test_a_stop_string_in_the_last_event_needs_no_abort(service, engine, ids):
    async with await started(service, engine, ids("a"), stop=("!",)) as generation:
        engine.emit(ids("b!"), finish_reason="length")
        (delta,) = await generation.take()
    assert (delta.finish_reason, delta.text) == ("stop", "ab")
    assert engine.aborted == []


async def test_what_came_before_a_failure_is_delivered_first(service, engine, ids):
    async with await started(service, engine, ids("hello")) as generation:
        engine.emit(finish_reason="error", error="internal", message="the step failed")
        assert [delta.text for delta in await generation.take()] == ["hello"]
        with pytest.raises(ApiError, match="the step failed") as caught:
            await generation.take()
    assert caught.value.kind is ErrorKind.INTERNAL
    assert engine.aborted == []


@pytest.mark.parametrize("grammar", [Grammar("json_object", ""), None])
async def test_a_form_that_cannot_be_followed_is_named_by_its_field(service, engine, ids, grammar):
    async with await started(service, engine, ids("hello"), grammar=grammar) as generation:
        message = "the grammar cannot go on after 1 tokens: why"
        engine.emit(finish_reason="error", error="invalid_request", message=message)
        await generation.take()
        with pytest.raises(ApiError, match="why") as caught:
            await generation.take()
    assert caught.value.param == ("grammar" if grammar else None)


async def test_a_failure_after_the_end_is_nobodys(service, engine, ids):
    async with await started(service, engine, ids("a")) as generation:
        engine.emit(ids("b"), finish_reason="stop")
        engine.emit(finish_reason="error", error="unavailable", message="the engine has gone")
        await generation.take()
        assert await generation.take() == []


async def test_a_deadline_ends_the_stream_and_tells_the_engine(service, engine, ids):
    async with await started(service, engine, ids("a")) as generation:
        await generation.take()
        generation.expire()
        with pytest.raises(ApiError) as caught:
            await generation.take()
    assert caught.value.kind is ErrorKind.DEADLINE_EXCEEDED
    assert engine.aborted == [(1, None, "deadline_exceeded")]


async def test_prompt_logprobs_come_with_the_first_event(service, engine, tokenizer):
    engine.script = [tokenizer.encode("x")]
    sampling = Sampling(prompt_logprobs=1)
    async with await service.start(GenerateRequest(prompt="hello!", sampling=sampling)) as it:
        first, second = it.prompt_logprobs
    assert first is None
    assert (second.token, len(second.top)) == ("!", 1)


async def test_prompt_text_of_text_and_of_tokens(service, engine, ids, tokenizer):
    engine.script = [ids("x")]
    for prompt in ("hello!", tuple(tokenizer.encode("hello!"))):
        async with await service.start(GenerateRequest(prompt=prompt)) as generation:
            assert generation.prompt_text == "hello!"


async def test_a_group_answers_all_prompts_in_their_order(service, engine, ids):
    engine.script, engine.finish_reason = [ids("a"), ids("b")], "length"
    async with await service.start_group([GenerateRequest(prompt=p) for p in ("x", "y")]) as group:
        answers = await group.finish()
        usage = group.usage
    assert [[delta.text for delta in deltas] for deltas in answers] == [["ab"], ["ab"]]
    assert (usage.num_prompt_tokens, usage.num_generated_tokens) == (2, 4)
    assert engine.open == {}


async def test_a_group_tells_whose_delta_it_is(service, engine, ids):
    engine.script = [ids("a")]
    engine.finish_reason = "length"
    async with await service.start_group([GenerateRequest(prompt=p) for p in ("x", "y")]) as group:
        taken = []
        while deltas := await group.take():
            taken += deltas
    assert sorted((position, delta.text) for position, delta in taken) == [(0, "a"), (1, "a")]


async def test_one_failed_prompt_fails_the_group_and_aborts_the_others(service, engine, ids):
    requests = [GenerateRequest(prompt=prompt) for prompt in ("x", "y")]
    starting = asyncio.create_task(service.start_group(requests))
    while len(engine.submitted) < 2:
        await asyncio.sleep(0)
    engine.emit(finish_reason="error", error="queue_full", message="256 requests are waiting")
    with pytest.raises(ApiError, match="256 requests") as caught:
        await starting
    assert caught.value.kind is ErrorKind.QUEUE_FULL
    assert engine.aborted == [(1, None, "abort")]
    assert engine.open == {}


async def starting_group(service: GenerationService, engine: FakeEngine, *prompts: str):
    requests = [GenerateRequest(prompt=prompt) for prompt in prompts]
    starting = asyncio.create_task(service.start_group(requests))
    while len(engine.submitted) < len(prompts):
        await asyncio.sleep(0)
    return starting


async def test_a_group_starts_when_its_first_prompt_has_begun(service, engine, ids):
    starting = await starting_group(service, engine, "x", "y", "z")
    engine.emit(ids("a"), to=1)
    async with await asyncio.wait_for(starting, 5) as group:
        assert [(position, delta.text) for position, delta in await group.take()] == [(1, "a")]
        assert group.first_started is group.generations[1]


async def test_a_group_with_a_prompt_that_is_refused_at_once_does_not_start(service, engine, ids):
    starting = await starting_group(service, engine, "x", "y")
    engine.emit(finish_reason="error", error="queue_full", message="no room", to=1)
    engine.emit(ids("a"), to=0)
    with pytest.raises(ApiError, match="no room"):
        await starting
