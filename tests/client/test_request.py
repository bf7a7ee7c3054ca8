"""Options mean the same over both transports; unknown ones are refused before a request is sent."""

from __future__ import annotations

import pytest
from antipode import AsyncClient, Client, InvalidRequestError
from antipode.request import make_request
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


@pytest.mark.parametrize("part", [{"type": "image_url"}, {"type": "text"}, "text", None])
def test_content_in_other_parts_is_refused(part):
    with pytest.raises(InvalidRequestError, match="a list of text parts"):
        request_of([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_an_unknown_option_is_refused_at_once(scheme):
    async with AsyncClient(f"{scheme}://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError, match=r"no option frequency_penality; .*top_p"):
            client.generate("x", frequency_penality=1)
    with Client(f"{scheme}://127.0.0.1:1") as client, pytest.raises(InvalidRequestError):
        client.generate("x", frequency_penality=1)
