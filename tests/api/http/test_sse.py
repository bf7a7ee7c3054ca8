"""Streams on the wire: whole events, one write per wake-up, and clients that are slow or gone."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.fakes import FakeEngine
from tests.api.http.asgi import DirectParts, Exchange, events

COMPLETIONS = "/v1/completions"


@pytest.fixture
def engine() -> FakeEngine:
    """Says nothing by itself."""
    return FakeEngine(None)


async def submitted(engine: FakeEngine) -> None:
    while not engine.submitted:
        await asyncio.sleep(0)


def stream_body(**fields: object) -> dict[str, object]:
    return {"prompt": "hello", "stream": True, **fields}


def texts(body: bytes) -> list[str]:
    return [event["choices"][0]["text"] for event in events(body) if event != "[DONE]"]


async def test_one_write_per_step_when_the_client_keeps_up(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    for count, (text, reason) in enumerate([("a", None), ("b", None), ("c", "length")], start=1):
        engine.emit(ids(text), finish_reason=reason)
        await exchange.until_written(count)
    await exchange.task
    assert [texts(body) for body in exchange.bodies[:3]] == [["a"], ["b"], ["c"]]
    assert exchange.bodies[3] == b"data: [DONE]\n\n"


async def test_headers_come_with_the_first_token_and_not_before(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    assert exchange.writes == []
    engine.emit(ids("a"))
    await exchange.until_written(1)
    headers = dict(exchange.writes[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    exchange.disconnect()
    await exchange.task


async def test_a_behind_writer_gets_everything_in_one_write(app, engine, ids):
    gate = asyncio.Event()
    exchange = Exchange(app, COMPLETIONS, stream_body(n=2), before_write=gate.wait)
    await submitted(engine)
    engine.emit(ids("a"))
    await asyncio.sleep(0.005)
    for text in "bcd":
        engine.emit(ids(text))
        engine.emit(ids(text), index=1)
    gate.set()
    await exchange.until_written(2)
    assert texts(exchange.bodies[0]) == ["a"]
    assert texts(exchange.bodies[1]) == ["bcd", "bcd"]
    exchange.disconnect()
    await exchange.task


async def test_a_client_that_vanishes_is_aborted_at_once(app, engine, ids, lifecycle):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    engine.emit(ids("a"))
    await exchange.until_written(1)
    exchange.disconnect()
    await exchange.task
    assert engine.aborted == [(1, None, "abort")]
    assert engine.open == {}
    assert lifecycle.num_in_flight == 0


async def test_a_client_that_vanishes_while_it_is_queued_is_aborted(app, engine, lifecycle):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    exchange.disconnect()
    await exchange.task
    assert engine.aborted == [(1, None, "abort")]
    assert lifecycle.num_in_flight == 0


async def test_a_client_that_vanishes_before_a_whole_answer_is_aborted(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, {"prompt": "hello"})
    await submitted(engine)
    engine.emit(ids("a"))
    await asyncio.sleep(0)
    exchange.disconnect()
    await exchange.task
    assert engine.aborted == [(1, None, "abort")]


async def test_a_client_that_reads_nothing_is_aborted(app, engine, ids, lifecycle):
    exchange = Exchange(app, COMPLETIONS, stream_body(), before_write=asyncio.Event().wait)
    await submitted(engine)
    engine.emit(ids("a"))
    await exchange.task
    assert engine.aborted == [(1, None, "abort")]
    assert lifecycle.num_in_flight == 0
    assert exchange.bodies == []


async def test_a_finished_stream_aborts_nothing(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    engine.emit(ids("a"), finish_reason="stop")
    await exchange.task
    assert engine.aborted == []
    assert engine.open == {}
    assert exchange.writes[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_failure_in_mid_stream_is_an_event(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    engine.emit(ids("a"))
    await exchange.until_written(1)
    engine.emit(finish_reason="error", error="unavailable", message="the engine process has ended")
    await exchange.task
    first, error, done = events(b"".join(exchange.bodies))
    assert first["choices"][0]["text"] == "a"
    assert error == {
        "error": {
            "message": "the engine process has ended",
            "type": "service_unavailable_error",
            "param": None,
            "code": None,
        }
    }
    assert done == "[DONE]"


async def test_a_fault_of_ours_in_mid_stream_is_an_event_without_details(
    app, engine, ids, monkeypatch, caplog
):
    exchange = Exchange(app, COMPLETIONS, stream_body())
    await submitted(engine)
    monkeypatch.setattr("server.api.http.sse._event", _fail_once(b"data: "))
    engine.emit(ids("secret"))
    await exchange.task
    error, done = events(b"".join(exchange.bodies))
    assert error["error"]["type"] == "internal_server_error"
    assert done == "[DONE]"
    assert engine.aborted == [(1, None, "abort")]
    assert "secret" not in caplog.text


def _fail_once(prefix: bytes):
    calls = iter([True])

    def encode(data: bytes) -> bytes:
        if next(calls, False):
            raise KeyError("a fault")
        return prefix + data + b"\n\n"

    return encode


async def test_text_that_is_held_back_makes_no_event(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body(stop=["abc"]))
    await submitted(engine)
    engine.emit(ids("ab"))
    await asyncio.sleep(0.005)
    assert exchange.bodies == []
    engine.emit(ids("x"), finish_reason="length")
    await exchange.task
    assert texts(exchange.bodies[0]) == ["abx"]


async def test_what_a_first_chunk_has_to_say_without_text(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body(return_token_ids=True))
    await submitted(engine)
    engine.emit(ids("é")[:1])
    await exchange.until_written(1)
    (chunk,) = events(exchange.bodies[0])
    (choice,) = chunk["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", ids("é")[:1])
    assert choice["prompt_token_ids"] == ids("hello")
    exchange.disconnect()
    await exchange.task


async def test_a_stop_string_is_never_seen(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body(stop="STOP"))
    await submitted(engine)
    for letter in "hello STOP world":
        engine.emit(ids(letter))
    await exchange.task
    chunks = [event for event in events(b"".join(exchange.bodies)) if event != "[DONE]"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] == "STOP"
    assert engine.aborted == [(1, 0, "stop")]


async def test_the_first_prompt_that_begins_is_written_while_others_wait(app, engine, ids):
    exchange = Exchange(app, COMPLETIONS, stream_body(prompt=["x", "y"], echo=True))
    while len(engine.submitted) < 2:
        await asyncio.sleep(0)
    engine.emit(ids("a"), to=1, version="1", finish_reason="length")
    await exchange.until_written(1)
    (event,) = events(exchange.bodies[0])
    assert [(c["index"], c["text"]) for c in event["choices"]] == [(1, "ya")]
    engine.emit(ids("b"), to=0, finish_reason="length")
    await exchange.task
    assert texts(exchange.bodies[1]) == ["xb"]


class TestPartsAtOnce:
    """What a server's connections take directly, after the first event."""

    @pytest.fixture
    def parts(self) -> DirectParts:
        return DirectParts()

    async def test_events_after_the_first_are_parts_one_for_each_step(
        self, app, engine, ids, parts
    ):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"))
        await exchange.until_written(1)
        for count, text in enumerate("bcd", start=1):
            engine.emit(ids(text))
            await parts.until_written(count)
        engine.emit(ids("e"), finish_reason="length")
        await exchange.task
        assert texts(exchange.bodies[0]) == ["a"]
        assert [texts(part) for part in parts.parts] == [["b"], ["c"], ["d"], ["e"]]
        assert exchange.bodies[1:] == [b"data: [DONE]\n\n"]

    async def test_a_client_that_is_behind_is_waited_for(self, app, engine, ids, parts):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"))
        await exchange.until_written(1)
        parts.is_full = True
        engine.emit(ids("b"))
        await exchange.until_written(2)
        parts.is_full = False
        engine.emit(ids("c"))
        await parts.until_written(1)
        assert [texts(body) for body in (*exchange.bodies, *parts.parts)] == [["a"], ["b"], ["c"]]
        exchange.disconnect()
        await exchange.task

    async def test_a_stream_that_its_first_event_ends_has_no_parts(self, app, engine, ids, parts):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"), finish_reason="length")
        await asyncio.wait_for(exchange.task, 5)
        assert (texts(exchange.bodies[0]), parts.parts) == (["a"], [])

    async def test_a_failure_is_told_after_the_parts(self, app, engine, ids, parts):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"))
        await exchange.until_written(1)
        engine.emit(ids("b"))
        engine.emit(finish_reason="error", error="unavailable", message="the engine has ended")
        await exchange.task
        assert [texts(part) for part in parts.parts] == [["b"]]
        error, done = events(exchange.bodies[1])
        assert (error["error"]["message"], done) == ("the engine has ended", "[DONE]")

    async def test_a_fault_of_ours_ends_the_stream(self, app, engine, ids, parts, monkeypatch):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"))
        await exchange.until_written(1)
        monkeypatch.setattr("server.api.http.sse._event", _fail_once(b"data: "))
        engine.emit(ids("b"))
        await exchange.task
        error, done = events(exchange.bodies[1])
        assert (error["error"]["type"], done) == ("internal_server_error", "[DONE]")
        assert engine.aborted == [(1, None, "abort")]

    async def test_a_client_that_vanishes_is_aborted_at_once(self, app, engine, ids, parts):
        exchange = Exchange(app, COMPLETIONS, stream_body(), parts=parts)
        await submitted(engine)
        engine.emit(ids("a"))
        await exchange.until_written(1)
        exchange.disconnect()
        await exchange.task
        engine.emit(ids("b"))
        await asyncio.sleep(0)
        assert (engine.aborted, parts.parts) == ([(1, None, "abort")], [])
