"""Answers that no server should give: each ends in an error of the client's own, and soon."""

from __future__ import annotations

import asyncio
import gzip
import json

import grpc
import pytest
from antipode import (
    AntipodeError,
    AsyncClient,
    InvalidRequestError,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from antipode._pb.antipode.v1 import generation_pb2 as pb
from antipode.limits import MAX_MESSAGE_BYTES
from antipode.transports.chunks import parse
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.malicious import (
    END,
    HEAD,
    IMPATIENT,
    LAST,
    choices_from,
    chunk,
    grpc_server,
    http_server,
    sse,
    usage,
)

WHOLE = HEAD + sse(chunk(), LAST, usage()) + END


async def failure_of(answer, *, is_open=False, **options):
    async with http_server(answer, is_open=is_open) as address:
        with pytest.raises(AntipodeError) as caught:
            await choices_from(address, **options)
    return caught.value


async def test_a_good_answer_is_read():
    async with http_server(WHOLE) as address:
        [choice] = await choices_from(address)
    assert (choice.text, choice.token_ids, choice.finish_reason) == ("aa", [5, 5], "length")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"id": ...}, "id is None"),
        ({"model": 3}, "model is 3"),
        ({"model_version": ...}, "model_version is None"),
        ({"seed": "7"}, "seed is '7'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"prompt_token_ids": ...}, "before the prompt's"),
        ({"prompt_token_ids": "ab"}, "prompt_token_ids is 'ab'"),
        ({"choices": None}, "neither choices nor usage"),
        ({"choices": {}}, "choices is {}"),
        ({"choices": [3]}, "choices is 3"),
        ({"usage": []}, r"usage is \[\]"),
        ({"usage": {"prompt_tokens": 1.5}}, "prompt_tokens is 1.5"),
        ({"choice": {"index": ...}}, "index is None"),
        ({"choice": {"index": "0"}}, "index is '0'"),
        ({"choice": {"index": -1}}, "index is -1"),
        ({"choice": {"index": 1}}, "choice 1; the request has n=1"),
        ({"choice": {"text": ...}}, "text is None"),
        ({"choice": {"text": 5}}, "text is 5"),
        ({"choice": {"text": "\ud800"}}, "half of a surrogate pair"),
        ({"choice": {"delta": "x"}}, "delta is 'x'"),
        ({"choice": {"delta": {"content": []}}}, r"content is \[\]"),
        ({"choice": {"token_ids": [1.0]}}, "no token id"),
        ({"choice": {"token_ids": [True]}}, "no token id"),
        ({"choice": {"token_ids": [-1]}}, "no token id"),
        ({"choice": {"token_ids": 5}}, "token_ids is 5"),
        ({"choice": {"token_ids": []}}, "text without tokens"),
        ({"choice": {"finish_reason": "tired"}}, "finish_reason is 'tired'"),
        ({"choice": {"finish_reason": 3}}, "finish_reason is 3"),
        ({"choice": {"finish_reason": []}}, r"finish_reason is \[\]"),
        ({"choice": {"stop_reason": 1.5}}, "stop_reason is 1.5"),
        ({"choice": {"logprobs": 5}}, "logprobs is 5"),
        ({"choice": {"logprobs": {"content": [5]}}}, "logprobs.content is 5"),
        ({"choice": {"logprobs": {"content": [{"token": "a", "logprob": "x"}]}}}, "logprob is"),
        ({"choice": {"logprobs": {"tokens": ["a"], "token_logprobs": []}}}, "different lengths"),
        ({"error": "gone"}, "gone"),
        ({"error": {"type": [], "message": 5}}, "5"),
    ],
    ids=lambda value: (
        json.dumps(value, default=lambda _: "left out") if isinstance(value, dict) else ""
    ),
)
async def test_a_field_that_is_wrong_is_named(wrong, words):
    answer = HEAD + sse(chunk(**wrong), LAST, usage()) + END
    with pytest.raises(ServerError, match=words):
        raise await failure_of(answer)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"data: {not json}\n\n", "malformed"),
        (b"data: [1]\n\n", "must be an object"),
        (b"data: 5\n\n", "must be an object"),
        (b"data: \xff\xfe\n\n", "malformed"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "malformed"),
        (b'data: {"seed": ' + b"9" * 5000 + b"}\n\n", "malformed"),
        (b'data: {"seed": NaN}\n\n', "malformed"),
        (b"", "broke off"),
        (b"data: [DONE]\n\n", "broke off"),
        (sse(chunk())[:-1], "broke off"),
        (sse(chunk())[:-30], "broke off"),
        (sse(chunk()) + END, "broke off"),
    ],
)
async def test_a_body_that_is_no_whole_answer_is_an_error(body, words):
    assert words in (await failure_of(HEAD + body)).message


async def test_a_choice_that_never_ended_is_never_left_out():
    once = RetryPolicy(max_attempts=1)
    answer = HEAD + sse(LAST, usage()) + END
    assert (await failure_of(answer, retry=once, n=2)).message == "the stream broke off"


async def test_tokens_after_the_end_of_a_choice_are_an_error():
    answer = HEAD + sse(LAST, chunk(), usage()) + END
    assert "after its end" in (await failure_of(answer)).message


async def test_an_end_that_is_repeated_counts_once():
    again = chunk(choice={"finish_reason": "length", "text": "", "token_ids": []})
    async with http_server(HEAD + sse(LAST, again, usage()) + END) as address:
        [choice] = await choices_from(address)
    assert choice.token_ids == [5]


async def test_counts_in_the_last_chunk_of_a_choice_do_not_hide_the_choice():
    last = chunk(choice={"finish_reason": "length"}) | {"usage": usage()["usage"]}
    async with http_server(HEAD + sse(last) + END) as address:
        [choice] = await choices_from(address)
    assert choice.token_ids == [5]


async def test_more_tokens_than_asked_for_are_an_error():
    answer = HEAD + sse(*[chunk()] * 4, LAST, usage()) + END
    assert "over 3 tokens" in (await failure_of(answer, max_tokens=3)).message


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_ends_without_counts_is_complete(n):
    """Not every server sends them; to resume a finished answer would bring it again."""
    lasts = [chunk(choice={"finish_reason": "length", "index": index}) for index in range(n)]
    async with (
        http_server(HEAD + sse(*lasts) + END) as address,
        AsyncClient(address, retry=IMPATIENT, trust_env=False) as client,
    ):
        stream = client.generate("x", n=n)
        choices = await stream.collect()
    assert [choice.token_ids for choice in choices] == [[5]] * n
    assert (stream.num_resumed, stream.num_retries, stream.usage) == (0, 0, None)


async def test_over_grpc_an_answer_that_ends_without_counts_is_complete():
    async with (
        grpc_server(response(start=start(), **ENDED)) as address,
        AsyncClient(address, retry=IMPATIENT) as client,
    ):
        stream = client.generate("x")
        [choice] = await stream.collect()
    assert choice.finish_reason is not None
    assert (stream.num_resumed, stream.usage) == (0, None)


async def test_an_answer_that_is_complete_needs_no_end_mark():
    async with http_server(HEAD + sse(LAST, usage())) as address:
        [choice] = await choices_from(address)
    assert choice.token_ids == [5]


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>", ServerError, "text/html"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", ServerError, "untyped"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", UnavailableError, "204"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://[x\r\n\r\n", UnavailableError, ""),
        (b"HTTP/1.1 307 T\r\nlocation: /elsewhere\r\n\r\n", UnavailableError, "307"),
        (b"HTTP/1.1 400 B\r\n\r\n[[", InvalidRequestError, "400"),
        (b"HTTP/1.1 503 S\r\nretry-after: " + b"9" * 400 + b"\r\n\r\n", UnavailableError, "503"),
        (b"HTTP/1.1 999 ?\r\n\r\n", UnavailableError, "999"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", UnavailableError, ""),
        (b"\x00\x01\x02", UnavailableError, ""),
        (b"", UnavailableError, ""),
    ],
)
async def test_an_answer_that_is_no_stream_is_an_error(head, error, words):
    found = await failure_of(head)
    assert type(found) is error
    assert words in found.message


async def test_a_chunk_that_is_cut_short_is_an_error():
    head = HEAD.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")
    assert isinstance(await failure_of(head + b"400\r\ndata: {"), UnavailableError)


async def test_a_compressed_answer_is_not_inflated():
    bomb = gzip.compress(b"data: " + bytes(1 << 26))
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    found = await failure_of(head + bomb)
    assert "compressed (gzip)" in found.message
    refused = head.replace(b"200 OK", b"500 Oh") + bomb
    assert (await failure_of(refused)).message == "HTTP status 500"


async def test_a_gateways_words_reach_the_caller():
    body = b"no healthy upstream"
    head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\r\n"
    found = await failure_of(head + body)
    assert isinstance(found, UnavailableError)
    assert found.message == "HTTP status 503: no healthy upstream"
    own = json.dumps({"error": {"message": "the server drains"}}).encode()
    assert (await failure_of(head + own)).message == "the server drains"


async def test_a_line_without_an_end_is_not_kept():
    once = RetryPolicy(max_attempts=1)
    answer = HEAD + b"data: " + bytes(MAX_MESSAGE_BYTES + 1)
    found = await failure_of(answer, is_open=True, retry=once)
    assert "in one line" in found.message


async def test_the_body_of_a_refusal_is_read_only_so_far():
    head = b"HTTP/1.1 500 Oh\r\n\r\n"
    assert (await failure_of(head + bytes(1 << 20), is_open=True)).message == "HTTP status 500"


@pytest.mark.parametrize(
    "body", [b": still here\n\n", b"data:\n\n", sse(chunk(choice={"text": "", "token_ids": []}))]
)
async def test_events_that_say_nothing_are_silence(body):
    async with http_server(HEAD, then=body) as address:
        with pytest.raises(UnavailableError, match=r"said nothing for 0\.3 s"):
            await choices_from(address)


async def test_a_wait_that_the_server_asks_for_is_bounded():
    answer = b"HTTP/1.1 503 S\r\nretry-after: 99999999\r\n\r\n"
    policy = RetryPolicy(max_attempts=2, initial_backoff=0.001, max_retry_after=0.01)
    async with http_server(answer) as address:
        with pytest.raises(UnavailableError):
            await choices_from(address, policy)


@pytest.mark.parametrize("prompt", [[object()], 5, "\ud800", {"a": 1}, [{"role": {1}}]])
@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_a_prompt_that_cannot_be_sent_is_an_invalid_request(scheme, prompt):
    async with AsyncClient(f"{scheme}://127.0.0.1:1", trust_env=False) as client:
        with pytest.raises(InvalidRequestError, match=r"cannot be sent|it must be|no content"):
            await client.generate(prompt).collect()


def start(**fields):
    return pb.Start(request_id="r", model="m", seed=7, prompt_token_ids=[1], **fields)


def response(**fields):
    return pb.GenerateResponse(**fields).SerializeToString()


ENDED = {"token_ids": [5], "text": "a", "finish_reason": pb.FINISH_REASON_LENGTH}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([b"\xff\xff\xff"], "malformed"),
        ([response(token_ids=[5])], "before the prompt's"),
        ([response(start=start(), finish_reason=77)], "finish_reason is 77"),
        ([response(start=start(), index=4, token_ids=[5])], "choice 4; the request has n=1"),
        ([response(start=start(), **ENDED), response(token_ids=[6])], "after its end"),
        ([response(start=start(), text="a")], "text without tokens"),
        ([], "broke off"),
        ([bytes(MAX_MESSAGE_BYTES + 1)], "larger than max"),
    ],
)
async def test_a_message_that_is_wrong_is_an_error_without_a_traceback(messages, words, caplog):
    async with grpc_server(*messages) as address:
        with pytest.raises((ServerError, UnavailableError), match=words) as caught:
            await choices_from(address)
    assert caught.value.attempts == 2
    assert not [record for record in caplog.records if record.name == "grpc._common"]


@pytest.mark.parametrize("status", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS])
async def test_a_status_that_no_server_of_ours_sends_is_unavailable(status):
    async with grpc_server(status=status) as address:
        with pytest.raises(UnavailableError, match="as asked"):
            await choices_from(address)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = ["id", "model", "model_version", "seed", "prompt_token_ids", "choices", "usage", "error"]
INNER = ["index", "text", "token_ids", "finish_reason", "stop_reason", "logprobs", "delta"]


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(NAMES), JSON),
    st.dictionaries(st.sampled_from(INNER), JSON),
)
def test_any_chunk_is_events_or_an_error_of_ours(fields, choice):
    data = json.dumps(chunk(choice=choice, **fields)).encode()
    try:
        list(parse(data))
    except AntipodeError:
        return


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(HEAD.__add__)
    | st.tuples(st.integers(0, len(WHOLE)), st.binary(max_size=20)).map(
        lambda cut: WHOLE[: cut[0]] + cut[1] + WHOLE[cut[0] + len(cut[1]) :]
    )
)
def test_any_bytes_are_an_answer_or_an_error_of_ours(answer):
    async def call():
        async with http_server(answer) as address:
            return await choices_from(address)

    try:
        asyncio.run(call())
    except AntipodeError:
        return


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_messages_are_an_answer_or_an_error_of_ours(messages):
    async def call():
        async with grpc_server(*messages) as address:
            return await choices_from(address)

    try:
        asyncio.run(call())
    except AntipodeError:
        return


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"resume_exactness": "exact"}, "exact"),
        ({"resume_exactness": "consistent"}, "consistent"),
        ({"resume_exactness": 5}, "consistent"),
        ({}, "consistent"),
    ],
)
async def test_a_stream_says_what_its_server_promises_of_the_rest(fields, found):
    answer = HEAD + sse(chunk(**fields), LAST | fields, usage()) + END
    async with (
        http_server(answer) as address,
        AsyncClient(address, retry=IMPATIENT, trust_env=False) as client,
    ):
        stream = client.generate("x")
        assert stream.resume_exactness == "consistent"
        await stream.collect()
    assert stream.resume_exactness == found


async def test_over_grpc_the_promise_comes_with_the_start():
    ended = response(
        start=start(resume_exactness="exact"), usage=pb.Usage(num_prompt_tokens=1), **ENDED
    )
    async with (
        grpc_server(ended) as address,
        AsyncClient(address, retry=IMPATIENT) as client,
    ):
        stream = client.generate("x")
        await stream.collect()
    assert stream.resume_exactness == "exact"
