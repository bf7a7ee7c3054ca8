"""Long answers are encoded in pieces and in a thread, and say the same."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from server.api.http.json_bodies.json_response import encode
from server.api.openai import answering


class Inner(msgspec.Struct, frozen=True):
    name: str
    numbers: list[Any] | msgspec.UnsetType | None = msgspec.UNSET


class Outer(msgspec.Struct, frozen=True, omit_defaults=True):
    inner: Any = None
    inners: Any = ()
    more: Any = None


@pytest.mark.parametrize(
    "body",
    [
        Outer(),
        Outer(inner=Inner("a", [])),
        Outer(inner=Inner("a", list(range(5000))), inners=[Inner("b"), Inner("c", [[1]] * 3000)]),
        Outer(inners=[Inner(str(number), None) for number in range(3000)]),
        Outer(inners=[Inner(str(number), [1.5]) for number in range(300)], more={"a": [1] * 2000}),
    ],
)
def test_pieces_are_the_whole(body):
    assert encode(body) == msgspec.json.encode(body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("num_logprobs", "is_inline"), [(0, True), (20, False)])
async def test_an_answer_of_many_entries_is_rendered_in_a_thread(
    client, monkeypatch, stream, num_logprobs, is_inline
):
    threads = set()
    original = answering._candidates

    def candidates(entry):
        threads.add(threading.get_ident())
        return original(entry)

    monkeypatch.setattr(answering, "_candidates", candidates)
    body = {"prompt": [1] * 240, "prompt_logprobs": num_logprobs, "stream": stream}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    assert "prompt_logprobs" in response.text
    assert (threads == {threading.get_ident()}) is is_inline
