"""What becomes of a request whose body does not come: one answer, in the words of its protocol,
and one line of the access log that says the same."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import contextmanager

import pytest

from server.api.access.gatekeeper import Gatekeeper
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from tests.api.http.edge import header_of, json_of, read_to_end, served, split_responses, status_of

PATHS = ["/v1/completions", "/v1/messages", "/v2/models/small/generate", "/v1/embeddings"]


@contextmanager
def recorded(service, health, **settings):
    """The whole application, with its access log, behind a port."""
    settings["cors_origins"] = "https://page.example"
    config = ServerConfig(**settings)
    app = create_http_app(service, health, config, gatekeeper=Gatekeeper(logs_calls=True))
    with served(app, **settings) as edge:
        yield edge


@pytest.fixture
def server(service, health):
    with recorded(service, health) as edge:
        yield edge


@pytest.fixture
def impatient(service, health):
    with recorded(service, health, body_timeout_seconds=0.1) as edge:
        yield edge


def head(path: str, length: bytes) -> bytes:
    lines = b"Host: s\r\nContent-Type: application/json\r\nOrigin: https://page.example\r\n"
    return b"POST %s HTTP/1.1\r\n%s%s\r\n\r\n" % (path.encode(), lines, length)


def the_answer(client) -> bytes:
    [response] = split_responses(read_to_end(client))
    assert header_of(response, b"connection") == b"close"
    assert header_of(response, b"access-control-allow-origin") == b"https://page.example"
    return response


def message_of(path: str, response: bytes) -> str:
    """The sentence, where the protocol of the path has it."""
    error = json_of(response)["error"]
    return error if path.startswith("/v2") else error["message"]


@pytest.fixture
def logged_status(caplog):
    """What the access log's one line of a path says; it comes a moment after the answer."""
    caplog.set_level("INFO", "server.api.access.gatekeeper")

    def logged_status(path: str) -> int:
        for _ in range(500):
            if found := [each for each in caplog.records if getattr(each, "path", "") == path]:
                break
            time.sleep(0.01)
        [line] = found
        return line.status

    return logged_status


@pytest.mark.parametrize("path", PATHS)
def test_a_drain_that_meets_half_a_body_is_unavailable(server, logged_status, path):
    with server.connect() as client:
        client.sendall(head(path, b"Content-Length: 100") + b'{"prompt"')
        server.settle()
        server.loop.call_soon_threadsafe(server.port.close_idle_connections)
        response = the_answer(client)
    assert status_of(response) == logged_status(path) == 503
    assert header_of(response, b"retry-after") == b"1"
    assert "shutting down" in message_of(path, response)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_does_not_come_in_time(impatient, logged_status, path):
    with impatient.connect() as client:
        client.sendall(head(path, b"Content-Length: 100") + b'{"prompt"')
        response = the_answer(client)
    assert status_of(response) == logged_status(path) == 408
    assert "--body-timeout-seconds" in message_of(path, response)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("chunks", "status"), [(b"ffffffffffffff\r\n", 413), (b"x\r\n", 400), (b"2\r\nabc", 400)]
)
@pytest.mark.parametrize("sends_on", [True, False])
def test_a_body_that_cannot_be_read(server, logged_status, path, chunks, status, sends_on):
    with server.connect() as client:
        client.sendall(head(path, b"Transfer-Encoding: chunked") + chunks)
        if not sends_on:
            client.shutdown(socket.SHUT_WR)
        response = the_answer(client)
    assert status_of(response) == logged_status(path) == status


def test_a_refusal_reaches_a_client_that_ends_its_side_before_it_comes():
    async def slow(scope, receive, send):
        try:
            while (await receive()).get("more_body"):
                pass
        except Exception:
            await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with served(slow) as edge, edge.connect() as client:
        client.sendall(head("/", b"Transfer-Encoding: chunked") + b"x\r\n")
        edge.settle()
        client.shutdown(socket.SHUT_WR)
        assert status_of(read_to_end(client)) == 400


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_goes_gets_no_answer_and_is_no_fault(server, logged_status, caplog, path):
    with server.connect() as client:
        client.sendall(head(path, b"Content-Length: 100") + b'{"prompt"')
        server.settle()
        # Without lingering, a close is a reset.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert logged_status(path) == 499
    server.settle()
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []
