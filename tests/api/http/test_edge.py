"""What raw bytes on a connection become: a request with its whole body, or one refusal."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import threading
import time
from dataclasses import dataclass, field

import h2.connection
import h2.errors
import h2.events
import h11
import pytest

from server.api.http.connections.request_reader import FREE_PIECES, MAX_HEADERS, RequestReader
from tests.api.http.edge import (
    Edge,
    header_of,
    json_of,
    read_response,
    read_to_end,
    served,
    split_responses,
    status_of,
)

CLOSE = b"GET /last HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n"
UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: keep-alive, upgrade\r\nUpgrade: IRC/6.9, TLS/1.0\r\n",
    b"Upgrade: h2c\r\n",
]
# A second request that a server might find in the body of the first.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"


MAX_BODY_BYTES = 4_000_000


@pytest.fixture(scope="module")
def edge():
    with served(max_header_bytes=4096, max_body_bytes=MAX_BODY_BYTES) as edge:
        yield edge


def post(body: bytes, *headers: bytes, version: bytes = b"1.1", path: bytes = b"/x") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    lines = b"".join((length, *headers))
    return b"POST %s HTTP/%s\r\nHost: s\r\n%s\r\n%s" % (path, version, lines, body)


def refusal(edge: Edge, *pieces: bytes) -> dict:
    """The only answer: an error in the documented shape that closes the connection."""
    [response] = edge.answers(*pieces)
    head = response.partition(b"\r\n\r\n")[0].lower()
    assert b"connection: close" in head
    assert b"content-type: application/json" in head
    assert b"x-request-id: " in head
    error = json_of(response)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return {"status": status_of(response), **error}


@pytest.mark.parametrize("headers", UPGRADES)
@pytest.mark.parametrize("body", [b'{"a": 1}', b"", SMUGGLED])
@pytest.mark.parametrize("is_split", [False, True])
def test_an_upgrade_offer_leaves_the_request_whole(edge, headers, body, is_split):
    request = post(body, headers)
    cut = len(request) - len(body)
    pieces = [request[:cut], request[cut:]] if is_split else [request]
    with edge.connect() as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.01)
        client.sendall(CLOSE)
        first, last = split_responses(read_to_end(client))
    assert (status_of(first), json_of(first)["body"]) == (200, body.decode())
    assert json_of(last)["path"] == "/last"


def test_an_upgrade_offer_leaves_a_chunked_body_whole(edge):
    head = b"POST /x HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n" + UPGRADES[0] + b"\r\n"
    first, last = edge.answers(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n", CLOSE)
    assert json_of(first)["body"] == "abcde"
    assert json_of(last)["path"] == "/last"


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 0x5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length : 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\n Content-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nX: a\r\n\tContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\nHost: s\nContent-Length: 5\n\n",
        b"POST / HTTP/1.1\r\nHost: s\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nX: a\rContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\n: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: s\r\nnothing\r\n\r\n",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused_and_not_read_on(edge, head):
    assert refusal(edge, head + SMUGGLED)["status"] == 400


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"CONNECT s:443 HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: s\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: s\r\nTRANSFER-ENCODING: chunked, gzip\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: s\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: s\r\nX: " + b"a" * 4096 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: s\r\nX: " + b"a" * 4096, 431),
        (b"GET /" + b"a" * 4096, 431),
        (b"GET / HTTP/1.1\r\nHost: s\r\n" + b"A: b\r\n" * MAX_HEADERS + b"\r\n", 431),
    ],
)
def test_what_is_no_request_of_http_1_is_refused(edge, request_bytes, status):
    assert refusal(edge, request_bytes)["status"] == status


def test_a_client_that_begins_with_http_2_is_told_in_its_frames(edge):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    events = client.receive_data(edge.exchange(client.data_to_send()))
    [end] = [each for each in events if isinstance(each, h2.events.ConnectionTerminated)]
    assert end.error_code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
    assert b"speaks HTTP/1.1 only" in end.additional_data


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a%20b?c=d%26", "/a b", "c=d%26"),
        (b"http://elsewhere/a?b", "/a", "b"),
        (b"HTTPS://elsewhere:1", "/", ""),
        (b"http://elsewhere?b", "/", "b"),
        (b"//a", "//a", ""),
    ],
)
def test_each_form_of_a_target_is_its_path(edge, target, path, query):
    [response] = edge.answers(CLOSE.replace(b"/last", target))
    assert (json_of(response)["path"], json_of(response)["query"]) == (path, query)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection(edge, version):
    for connection in (b"", b"Connection: keep-alive\r\n"):
        request = post(b"", connection, b"", version=version, path=b"/stream")
        closing = b"" if version == b"1.0" else CLOSE
        head, _, body = edge.exchange(request, closing).partition(b"\r\n\r\n")
        if version == b"1.0":
            assert body == b"one two three"
            assert b"transfer-encoding" not in head.lower()
            assert b"connection: close" in head.lower()
        else:
            assert body.startswith(b"4\r\none \r\n")


def test_http_1_0_without_a_host_is_answered_and_closed(edge):
    [response] = edge.answers(b"GET /x HTTP/1.0\r\n\r\n")
    assert (status_of(response), json_of(response)["path"]) == (200, "/x")


def test_head_gets_the_head_only(edge):
    response, last = edge.exchange(b"HEAD /x HTTP/1.1\r\nHost: s\r\n\r\n", CLOSE).split(
        b"\r\n\r\n", 1
    )
    assert b"content-length: " in response.lower()
    assert last.startswith(b"HTTP/1.1 200")


def test_expect_continue_is_asked_for_the_body_and_answered_once(edge):
    head = b"POST /x HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
    with edge.connect() as client:
        client.sendall(head + b"Connection: close\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hi")
        assert json_of(read_to_end(client))["body"] == "hi"


def test_an_answer_before_the_body_closes_the_connection_and_is_not_lost(edge):
    """The client sends on: what it sends must neither reset the answer nor be a request."""
    with edge.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: s\r\nContent-Length: 3000000\r\n\r\n")
        client.sendall(SMUGGLED * 30_000)
        client.shutdown(socket.SHUT_WR)
        [response] = split_responses(read_to_end(client))
    assert status_of(response) == 200
    assert b"connection: close" in response


def test_pipelined_requests_are_answered_in_order(edge):
    requests = [post(b"%d" % number) for number in range(300)]
    bodies = [json_of(response)["body"] for response in edge.answers(b"".join(requests) + CLOSE)]
    assert bodies == [*map(str, range(300)), ""]


def test_a_body_of_very_many_chunks_arrives_whole(edge):
    head = b"POST /x HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n"
    first, _ = edge.answers(head + b"1\r\na\r\n" * 5000 + b"0\r\n\r\n" + CLOSE)
    assert json_of(first)["body"] == "a" * 5000


def chunked(*headers: bytes, path: bytes = b"/x") -> bytes:
    lines = b"".join((b"Transfer-Encoding: chunked\r\n", *headers))
    return b"POST %s HTTP/1.1\r\nHost: s\r\n%s\r\n" % (path, lines)


@pytest.mark.parametrize("is_split", [False, True])
def test_chunks_that_cost_more_than_their_bytes_are_refused(edge, is_split):
    """Each would take the event loop as long as a kilobyte of a body does."""
    chunks = [b"1\r\na\r\n"] * (FREE_PIECES + 100)
    pieces = [b"".join(chunks[at : at + 100]) for at in range(0, len(chunks), 100)]
    error = refusal(edge, chunked(), *(pieces if is_split else [b"".join(pieces)]))
    assert error["status"] == 400
    assert error["message"] == (
        "the body comes in too many small chunks; send chunks of at least 256 bytes, or a"
        " Content-Length"
    )


def test_chunks_of_a_fair_size_are_bounded_by_their_bytes_alone(edge):
    chunk = b"100\r\n" + b"a" * 256 + b"\r\n"
    first, _ = edge.answers(chunked() + chunk * (FREE_PIECES + 1000) + b"0\r\n\r\n" + CLOSE)
    assert len(json_of(first)["body"]) == 256 * (FREE_PIECES + 1000)


@pytest.mark.parametrize(
    "chunks",
    [
        b"%x\r\n" % (MAX_BODY_BYTES + 1),
        b"%x\r\na" % (MAX_BODY_BYTES + 1),
        b"f" * 18 + b"\r\n",
        b"f" * 20 + b"\r\n",
        b"2\r\nab\r\n%x\r\n" % (MAX_BODY_BYTES - 1),
        b"%x;a=b\r\n" % (1 << 40),
    ],
)
def test_a_chunk_that_will_be_too_long_is_refused_before_it_comes(edge, chunks):
    """As a Content-Length is: the client would otherwise send until the limit, or not at all."""
    error = refusal(edge, chunked(), chunks)
    assert (error["status"], error["message"]) == (
        413,
        f"the body must have at most {MAX_BODY_BYTES} bytes",
    )


def test_a_body_of_as_many_bytes_as_may_be_is_read(edge):
    body = b"a" * (MAX_BODY_BYTES - 2)
    chunks = b"2\r\nab\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    first, _ = edge.answers(chunked(), chunks, CLOSE)
    assert len(json_of(first)["body"]) == MAX_BODY_BYTES


def test_what_follows_a_request_is_not_copied_for_each_that_comes_before(edge):
    """A parser gets pieces of a bounded size; what waits behind them stays where it is."""
    reader = RequestReader(max_header_bytes=4096, max_body_bytes=MAX_BODY_BYTES)
    reader.feed((post(b"a") + CLOSE) * 2000)
    handed = []
    feed_parser = reader._feed_parser

    def counting(parser, end):
        feed_parser(parser, end)
        handed.append(reader._num_fed)

    reader._feed_parser = counting
    paths = []
    while (event := reader.next_event()) is not None:
        if isinstance(event, h11.Request):
            paths.append(event.target)
    assert paths == [b"/x", b"/last"] * 2000
    assert reader.is_between_requests
    assert max(handed) <= 1 << 14


def test_empty_lines_before_a_request_are_no_fault(edge):
    first, last = edge.answers(b"\r\n" + post(b"a") + b"\r\n" + CLOSE)
    assert (json_of(first)["body"], json_of(last)["path"]) == ("a", "/last")


def test_a_fault_of_the_application_has_the_documented_shape(edge):
    [response] = edge.answers(post(b"", path=b"/fault"))
    assert (status_of(response), json_of(response)["error"]["type"]) == (
        500,
        "internal_server_error",
    )


@pytest.fixture(scope="module")
def impatient():
    with served(head_timeout_seconds=0.1, body_timeout_seconds=0.1) as edge:
        yield edge


def test_a_refusal_repeats_nothing_of_what_it_could_not_read(edge, caplog):
    caplog.set_level("INFO")
    for head in (
        b"GET / HTTP/1.1\r\nHost: s\r\nsecret\r\n\r\n",
        b"GET secret secret HTTP/1.1\r\n\r\n",
    ):
        assert "secret" not in str(refusal(edge, head))
    assert "refused a request" in caplog.text
    assert "secret" not in caplog.text


def test_a_connection_that_says_nothing_is_closed_without_an_answer(impatient):
    assert impatient.exchange() == b""


def test_a_head_that_does_not_come_is_refused_by_name(impatient):
    error = refusal(impatient, b"GET / HTTP/1.1\r\nHo")
    assert error["status"] == 408
    assert "--head-timeout-seconds" in error["message"]


def test_the_second_head_of_a_connection_has_a_deadline_too(impatient):
    first, last = impatient.answers(post(b"a"), b"GET")
    assert (status_of(first), status_of(last)) == (200, 408)


def test_a_body_that_does_not_come_is_refused_by_name(impatient):
    error = refusal(impatient, post(b"a" * 100)[:-50])
    assert error["status"] == 408
    assert "--body-timeout-seconds" in error["message"]


def test_a_kept_connection_without_a_request_has_no_deadline_for_a_head(impatient):
    with impatient.connect() as client:
        client.sendall(post(b"a"))
        read_response(client)
        time.sleep(0.2)
        client.sendall(CLOSE)
        assert status_of(read_to_end(client)) == 200


def test_a_body_that_keeps_coming_has_longer(impatient):
    """8 KiB are worth two seconds."""
    body = b"a" * 20_000
    with impatient.connect() as client:
        request = post(body, b"Connection: close\r\n")
        client.sendall(request[:10_000])
        time.sleep(0.3)
        client.sendall(request[10_000:])
        assert json_of(read_to_end(client))["body"] == body.decode()


def test_a_half_sent_request_that_meets_a_drain_is_unavailable(edge):
    for request in (post(b"a" * 100)[:-50], b"GET / HTTP/1.1\r\n"):
        with edge.connect() as client:
            client.sendall(request)
            edge.settle()
            edge.loop.call_soon_threadsafe(edge.port.close_idle_connections)
            [response] = split_responses(read_to_end(client))
        assert status_of(response) == 503
        assert b"connection: close" in response
        assert b"retry-after: 1" in response
        assert json_of(response)["error"]["type"] == "service_unavailable_error"


def test_an_idle_connection_that_meets_a_drain_is_closed_without_an_answer(edge):
    with edge.connect() as fresh, edge.connect() as kept:
        kept.sendall(post(b"a"))
        read_response(kept)
        edge.settle()
        edge.loop.call_soon_threadsafe(edge.port.close_idle_connections)
        assert (read_to_end(fresh), read_to_end(kept)) == (b"", b"")


def test_a_first_request_on_its_way_as_a_drain_begins_is_answered(edge):
    with edge.connect() as client:
        edge.settle()
        edge.loop.call_soon_threadsafe(edge.port.close_idle_connections)
        edge.settle()
        client.sendall(CLOSE)
        assert status_of(read_to_end(client)) == 200


def test_a_first_request_that_is_half_sent_long_after_a_drain_began_is_unavailable(edge):
    with edge.connect() as client:
        edge.settle()
        edge.loop.call_soon_threadsafe(edge.port.close_idle_connections)
        client.sendall(CLOSE[:10])
        assert status_of(read_to_end(client)) == 503


def half_closed(edge: Edge, *pieces: bytes) -> bytes:
    """What comes back to a client that closes its sending side right behind its request."""
    with edge.connect() as client:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)


def test_a_client_that_sends_no_more_is_answered(edge):
    """As `nc -N` does. The connection ends with the last answer."""
    [response] = split_responses(half_closed(edge, post(b"a")))
    assert json_of(response)["body"] == "a"
    assert half_closed(edge, post(b"", path=b"/stream")).endswith(b"0\r\n\r\n")
    responses = split_responses(half_closed(edge, *[post(b"%d" % each) for each in range(50)]))
    assert [json_of(each)["body"] for each in responses] == [*map(str, range(50))]
    assert half_closed(edge) == b""


@pytest.mark.parametrize("request_bytes", [post(b"aa")[:-1], chunked() + b"2\r\na", b"GET /x HTTP"])
def test_a_request_that_ends_before_it_is_complete_is_refused(edge, request_bytes):
    [response] = split_responses(half_closed(edge, request_bytes))
    assert status_of(response) == 400
    assert json_of(response)["error"]["message"] == (
        "the connection ended before the request was complete"
    )


@dataclass
class SlowAnswer:
    """An application that answers when it is told to, or learns that its client has gone."""

    may_answer: threading.Event = field(default_factory=threading.Event)
    is_client_gone: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        gone = asyncio.ensure_future(receive())
        while not (self.may_answer.is_set() or gone.done()):
            await asyncio.sleep(0.005)
        if gone.done():
            self.is_client_gone.set()
            return
        gone.cancel()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_a_client_that_sends_no_more_can_wait_for_its_answer(seconds):
    slow = SlowAnswer()
    with served(slow) as edge, edge.connect() as client:
        client.sendall(post(b"a"))
        client.shutdown(socket.SHUT_WR)
        time.sleep(seconds)
        slow.may_answer.set()
        # What the server asks meanwhile is no answer, and every client reads past it.
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read()) == (200, b"ok")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    "leave", [socket.socket.close, lambda client: client.shutdown(1) or client.close()]
)
def test_a_client_that_has_gone_is_noticed(version, leave):
    slow = SlowAnswer()
    with served(slow) as edge:
        client = edge.connect()
        client.sendall(post(b"a", version=version))
        edge.settle()
        leave(client)
        assert slow.is_client_gone.wait(5)


def test_a_client_that_ends_within_an_answer_has_read_enough():
    """A stream may say nothing for long, and nothing could be written to ask."""
    begun, gone = threading.Event(), threading.Event()

    async def begin(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with served(begin) as edge, edge.connect() as client:
        client.sendall(post(b"a"))
        assert begun.wait(5)
        client.recv(1)
        client.shutdown(socket.SHUT_WR)
        assert gone.wait(5)


def test_http_1_0_has_no_way_to_ask_a_client_that_sends_no_more(edge):
    slow = SlowAnswer()
    with served(slow) as edge:
        assert half_closed(edge, post(b"a", version=b"1.0")) == b""
        assert slow.is_client_gone.wait(5)


PAGE = b"Origin: https://page.example\r\n"


@pytest.fixture(scope="module")
def crowded():
    with served(max_connections=4, cors_origins="https://page.example") as edge:
        yield edge


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"\r\n", 400),
        (b"Host: s\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"Host: s\r\n" + b"A: b\r\n" * MAX_HEADERS + b"\r\n", 431),
        (b"Host: s\r\nX: " + b"a" * (1 << 17), 431),
    ],
)
def test_an_allowed_page_may_read_what_the_connection_refuses(crowded, rest, status):
    for page, allowed in ((PAGE, b"https://page.example"), (b"Origin: https://b\r\n", b"")):
        response = crowded.exchange(b"GET / HTTP/1.1\r\n" + page + rest)
        assert status_of(response) == status
        assert header_of(response, b"access-control-allow-origin") == allowed


def test_silent_connections_make_room_for_those_that_ask(crowded):
    silent = [crowded.connect() for _ in range(20)]
    for path in (b"/livez", b"/x"):
        [response] = crowded.answers(CLOSE.replace(b"/last", path))
        assert status_of(response) == 200
    for client in silent:
        client.close()


def test_where_every_connection_has_a_request_probes_are_still_answered(crowded):
    half_sent = post(b"aa")[:-1]
    busy = [crowded.connect() for _ in range(4)]
    for client in busy:
        client.sendall(half_sent)
    crowded.settle()
    [response] = crowded.answers(CLOSE.replace(b"/last", b"/livez"))
    assert status_of(response) == 200
    response = crowded.exchange(CLOSE.replace(b"\r\n\r\n", b"\r\n" + PAGE + b"\r\n"))
    assert header_of(response, b"access-control-allow-origin") == b"https://page.example"
    error = refusal(crowded, CLOSE)
    assert (error["status"], error["type"]) == (503, "service_unavailable_error")
    for client in busy:
        client.sendall(b"a")
        assert json_of(read_response(client))["body"] == "aa"
        client.close()


def test_closed_connections_leave_no_descriptor_behind(crowded):
    crowded.exchange(CLOSE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        crowded.exchange(CLOSE)
        crowded.exchange(b"\x00")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
