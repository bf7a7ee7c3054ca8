"""Options mean the same over both transports; unknown ones are refused before a request is sent."""

from __future__ import annotations

import pytest
from antipode import AsyncClient, Client, InvalidRequestError
from antipode.requests.request import make_request
from antipode.transports.grpc_transport import message
from antipode.transports.http_transport import body

HELLO = [{"role": "user", "content": "hello"}]


def request_of(prompt="hello", **options):
    return make_request(prompt, options, model="", n=1, request_id="")


def both(prompt="hello", **options):
    """The fields of a request over HTTP, and its message over gRPC."""
    request = request_of(prompt, **options)
    return body(request, None, "small"), message(request, None)


@pytest.mark.parametrize("stop", ["France", ["France"], ("France",)])
def test_one_stop_string_is_the_whole_string(stop):
    fields, built = both(stop=stop)
    assert list(fields["stop"]) == list(built.sampling.stop) == ["France"]


def test_an_option_that_is_none_is_left_out():
    fields, built = both(temperature=None, seed=None, stop=None)
    assert not fields.keys() & {"temperature", "seed", "stop"}
    assert not built.sampling.ListFields()


def test_the_default_of_max_tokens_is_the_rest_of_the_context():
    fields, built = both()
    assert (fields["max_tokens"], built.sampling.HasField("max_tokens")) == (-1, False)
    fields, built = both(max_tokens=0)
    assert (fields["max_tokens"], built.sampling.max_tokens) == (0, 0)
    assert built.sampling.HasField("max_tokens")


def test_content_in_text_parts_is_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    fields, built = both([{"role": "user", "content": parts}])
    assert fields["messages"][0]["content"] == built.chat.messages[0].content == "a\nb"


@pytest.mark.parametrize("part", [{"type": "input_audio"}, {"type": "text"}, "text", None])
def test_content_in_other_parts_is_refused(part):
    with pytest.raises(InvalidRequestError, match="a list of text parts and image parts"):
        request_of([{"role": "user", "content": [part]}])


# Each value that one of the transports would have taken, or have sent as another.
REFUSED = {
    "stop": 5, "stop_token_ids": [5.5], "allowed_token_ids": 5, "bad_words": "text",
    "temperature": True, "top_p": "1", "min_p": float("nan"),
    "max_tokens": -1, "min_tokens": True, "seed": 2**64, "ignore_eos": 1, "logprobs": False,
    "logit_bias": {"a": 1}, "top_k": 1.5, "grammar": {"choice": "ab"}, "skip_special_tokens": "no",
    "tools": 5, "tool_choice": {}, "parallel_tool_calls": "x", "chat_template_kwargs": 5,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED.items(), ids=REFUSED)
def test_a_value_of_another_type_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequestError, match=rf"^{name}|^grammar\.choice is"):
        request_of(HELLO, **{name: value})


def test_a_value_in_another_spelling_is_sent_as_one():
    fields, built = both(max_tokens=3.0, seed=-1, logit_bias={"5": 1}, stop_token_ids=(7,))
    sampling = built.sampling
    assert fields["max_tokens"] == sampling.max_tokens == 3
    assert fields["seed"] == sampling.seed == 2**64 - 1
    assert fields["logit_bias"] == {"5": 1}
    assert dict(sampling.logit_bias) == {5: 1.0}
    assert list(fields["stop_token_ids"]) == list(sampling.stop_token_ids) == [7]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (b"abc", "the prompt is b'abc'"),
        (5, "the prompt is 5"),
        (None, "the prompt is None"),
        (["a", "b"], "call once for each"),
        ([5.5], "a token id of the prompt is 5.5"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": None}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": "x", "mood": "glad"}], r"messages\[0\] has the field mood"),
        ([HELLO[0], "x"], "call once for each"),
    ],
)
def test_a_prompt_of_another_form_is_refused(prompt, words):
    with pytest.raises(InvalidRequestError, match=words):
        request_of(prompt)


def test_a_message_of_another_library_loses_what_it_has_not():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    fields, built = both([*HELLO, {**answer, "tool_calls": [call]}])
    assert fields["messages"][1] == {"role": "assistant", "tool_calls": [call]}
    assert built.chat.messages[1].tool_calls[0].name == "f"


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_an_unknown_option_is_refused_at_once(scheme):
    async with AsyncClient(f"{scheme}://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError, match=r"no option frequency_penality; .*top_p"):
            client.generate("x", frequency_penality=1)
    with Client(f"{scheme}://127.0.0.1:1") as client, pytest.raises(InvalidRequestError):
        client.generate("x", frequency_penality=1)
