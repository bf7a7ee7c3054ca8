"""A server dies in the middle of a stream, and whoever reads it does not notice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
from antipode import (
    AsyncClient,
    Choice,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RetryPolicy,
    UnavailableError,
    VersionGoneError,
)

from tests.client.fake_server import FunctionEngine, fake_server, relays

TRANSPORTS = ("grpc", "http")
PROMPT = "say it"
CASES = {
    "greedy": {"temperature": 0.0, "max_tokens": 44},
    "sampled": {"seed": 11, "max_tokens": 44, "logprobs": 1},
    "penalised, with stop strings": {
        "seed": 12,
        "max_tokens": 60,
        "min_tokens": 43,
        "frequency_penalty": 0.5,
        "stop": ["QZ", "k", "XY"],
    },
}
QUICK = RetryPolicy(initial_backoff=0.001, max_backoff=0.02)


@asynccontextmanager
async def client_of(transport, relays, retry=QUICK):
    addresses = [f"{transport}://{relay.address}" for relay in relays]
    async with AsyncClient(*addresses, retry=retry, trust_env=False) as client:
        yield client


@asynccontextmanager
async def calling(transport, *engines, retry=QUICK):
    """A client of as many servers as engines, and the relays before them."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(fake_server(engine)) for engine in engines]
        targets = [server.addresses[transport] for server in servers]
        started = await stack.enter_async_context(relays(targets))
        yield await stack.enter_async_context(client_of(transport, started, retry)), started


async def read(stream, at=None):
    """The whole choices; `at` maps numbers of received tokens to what is to happen then."""
    choices = [Choice(index=index) for index in range(3)]
    num_tokens = 0
    async for delta in stream:
        choices[delta.index].add(delta)
        num_tokens += len(delta.token_ids)
        if at and num_tokens in at:
            at.pop(num_tokens)()
    return choices


def now():
    return asyncio.get_running_loop().time()


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
async def test_after_any_number_of_tokens_the_rest_comes_from_another(transport, options):
    async with fake_server(FunctionEngine()) as living, fake_server(FunctionEngine()) as dying:
        targets = [dying.addresses[transport], living.addresses[transport]]
        async with relays(targets) as both, client_of(transport, both) as client:
            undisturbed = client.generate(PROMPT, **options)
            whole = await read(undisturbed)
        assert len(whole[0].token_ids) > 40
        for k in range(1, 41):
            dying.engine.halt_after = k
            async with relays(targets) as both, client_of(transport, both) as client:
                stream = client.generate(PROMPT, **options)
                assert await read(stream, {k: both[0].kill}) == whole, k
                assert (stream.num_resumed, stream.num_retries) == (1, 0)
                assert stream.usage == undisturbed.usage


async def test_before_the_first_token_it_tries_again(transport):
    dying = FunctionEngine(halt_after=0)
    async with calling(transport, dying, FunctionEngine()) as (client, servers):
        stream = client.generate(PROMPT, max_tokens=5)
        reading = asyncio.create_task(read(stream))
        while not dying.submitted:
            await asyncio.sleep(0.001)
        servers[0].kill()
        assert len((await reading)[0].token_ids) == 5
    assert (stream.num_resumed, stream.num_retries) == (0, 1)


async def test_a_drawn_seed_is_kept_through_two_deaths_in_one_stream(transport):
    engines = FunctionEngine(halt_after=7), FunctionEngine(halt_after=9), FunctionEngine()
    async with calling(transport, *engines) as (client, servers):
        stream = client.generate(PROMPT, n=2, max_tokens=30)
        found = await read(stream, {14: servers[0].kill, 14 + 18: servers[1].kill})
        again = client.generate(PROMPT, n=2, max_tokens=30, seed=stream.start.seed)
        assert await read(again) == found
    assert stream.num_resumed == 2
    assert stream.usage.num_generated_tokens == 60


async def test_a_conversation_goes_on_from_the_same_prompt(transport):
    messages = [{"role": "user", "content": "hello"}]
    options = {"max_tokens": 20, "seed": 3, "logprobs": 2}
    dying, living = FunctionEngine(halt_after=6), FunctionEngine()
    async with calling(transport, dying, living) as (client, servers):
        found = await read(client.generate(messages, **options), {6: servers[0].kill})
        whole = await read(client.generate(messages, **options))
    assert found == whole
    assert len(whole[0].logprobs) == 20
    assert living.submitted[0].prompt_token_ids == dying.submitted[0].prompt_token_ids


async def test_both_transports_tell_the_same():
    told = []
    for transport in TRANSPORTS:
        async with calling(transport, FunctionEngine()) as (client, _):
            stream = client.generate(PROMPT, n=2, seed=5, max_tokens=9, logprobs=2)
            choices = await read(stream)
            told.append((choices, stream.usage, stream.start.model_version, stream.start.seed))
    assert told[0] == told[1]


async def test_a_version_that_is_gone_is_said_so(transport):
    policy = RetryPolicy(max_attempts=4, initial_backoff=0.001, max_backoff=0.01)
    old, new = FunctionEngine(halt_after=5), FunctionEngine(version="2")
    async with calling(transport, old, new, retry=policy) as (client, servers):
        stream = client.generate(PROMPT, max_tokens=30)
        to_the_new_one = partial(servers[0].redirect, servers[1].target)
        with pytest.raises(VersionGoneError, match="began on version '1'") as caught:
            await read(stream, {5: to_the_new_one})
    assert caught.value.attempts == 4
    assert new.submitted == []


async def test_a_deadline_in_the_middle_ends_the_stream(transport):
    choice = Choice(index=0)

    async def read_all(stream):
        async for delta in stream:
            choice.add(delta)

    async with calling(transport, FunctionEngine(halt_after=5)) as (client, _):
        start = now()
        with pytest.raises(DeadlineExceededError):
            await read_all(client.generate(PROMPT, max_tokens=30, timeout=1))
        assert 0.95 < now() - start < 3
    assert len(choice.token_ids) == 5


async def test_a_deadline_is_not_waited_past(transport):
    slow = RetryPolicy(initial_backoff=30, max_backoff=30)
    async with calling(transport, FunctionEngine(), retry=slow) as (client, servers):
        servers[0].kill()
        with pytest.raises(DeadlineExceededError, match="leaves no time to retry"):
            await read(client.generate(PROMPT, timeout=5))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"temperature": 9.0}, InvalidRequestError),
        ({"model": "other"}, NotFoundError),
        ({"max_tokens": 5000}, InvalidRequestError),
    ],
)
async def test_a_wrong_request_is_tried_once(transport, wrong, error):
    engine = FunctionEngine()
    async with calling(transport, engine) as (client, _):
        with pytest.raises(error) as caught:
            await read(client.generate(PROMPT, **wrong))
    assert caught.value.attempts == 1
    assert len(engine.refused) == 1


async def test_a_full_queue_is_waited_for_as_long_as_the_server_says(transport):
    engine = FunctionEngine()
    async with calling(transport, engine) as (client, _):
        engine.num_refusals, start = 1, now()
        stream = client.generate(PROMPT, max_tokens=3)
        await read(stream)
        assert now() - start >= 1.0
        assert stream.num_retries == 1
        engine.num_refusals = 99
        with pytest.raises(DeadlineExceededError, match="8 requests wait already"):
            await read(client.generate(PROMPT, timeout=0.5))


async def test_a_server_that_is_gone_for_good_is_given_up(transport):
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.001, max_backoff=0.01)
    async with calling(transport, FunctionEngine(halt_after=3), retry=policy) as (client, servers):
        with pytest.raises(UnavailableError, match="3 attempts"):
            await read(client.generate(PROMPT, max_tokens=9), {3: servers[0].kill})


async def test_silence_counts_as_broken(transport):
    policy = RetryPolicy(initial_backoff=0.001, stall_timeout=1)
    frozen = FunctionEngine(halt_after=4)
    async with calling(transport, frozen, FunctionEngine(), retry=policy) as (client, _):
        stream = client.generate(PROMPT, max_tokens=9)
        assert len((await read(stream))[0].token_ids) == 9
    assert stream.num_resumed == 1
    assert frozen.aborted[-1][2] == "abort"


async def test_a_reader_that_stops_early_stops_the_server(transport):
    engine = FunctionEngine(halt_after=4)
    async with calling(transport, engine) as (client, _):
        async with client.generate(PROMPT, max_tokens=30) as stream:
            assert (await anext(aiter(stream))).token_ids
        while not engine.aborted:
            await asyncio.sleep(0.001)
    assert len(engine.submitted) == 1
    assert stream.num_retries == stream.num_resumed == 0


async def test_a_server_that_shuts_down_is_not_the_last_word(transport):
    async with fake_server(FunctionEngine()) as leaving, fake_server(FunctionEngine()) as staying:
        targets = [leaving.addresses[transport], staying.addresses[transport]]
        async with relays(targets) as both, client_of(transport, both) as client:
            leaving.lifecycle.begin_drain()
            leaving.lifecycle.stop_accepting()
            stream = client.generate(PROMPT, max_tokens=3, timeout=5)
            await read(stream)
    assert stream.num_retries == 1
