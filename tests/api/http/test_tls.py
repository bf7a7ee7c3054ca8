from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import time

import pytest
from starlette.responses import JSONResponse

from server.files import watched_files
from tests.api.http.edge import json_of, read_response, read_to_end, served, status_of
from tests.certificates import Authority

GET = b"GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"), "stranger")


@pytest.fixture(scope="module")
def pairs(authority):
    return {name: authority.sign(name) for name in ("first", "second", "client")}


@pytest.fixture(autouse=True)
def files_are_looked_at_always(monkeypatch):
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.0)


@pytest.fixture
def files(tmp_path, authority, pairs):
    """The files of a server, which a test may replace."""
    shutil.copy(pairs["first"].certificate, tmp_path / "tls.crt")
    shutil.copy(pairs["first"].key, tmp_path / "tls.key")
    shutil.copy(authority.file, tmp_path / "ca.crt")
    return tmp_path


def settings_of(files, *, asks_clients=False, **others):
    return {
        "tls_cert_file": str(files / "tls.crt"),
        "tls_key_file": str(files / "tls.key"),
        "tls_client_ca_file": str(files / "ca.crt") if asks_clients else "",
        **others,
    }


def client_context(authority, pair=None):
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def secured(edge, context):
    return context.wrap_socket(edge.connect(), server_hostname="localhost")


def exchange(edge, context, data=GET):
    with secured(edge, context) as client:
        client.sendall(data)
        return read_to_end(client)


def is_refused(edge, context):
    """Whether the connection ends without an answer; the client may learn why, or only that."""
    try:
        return exchange(edge, context) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def name_of(edge, context):
    """Whose certificate the server shows now."""
    with secured(edge, context) as client:
        return client.getpeercert()["subject"][0][0][1]


def test_requests_are_answered_within_tls(files, authority):
    with served(**settings_of(files)) as edge:
        context = client_context(authority)
        assert json_of(exchange(edge, context))["path"] == "/x"
        body = b"x" * 300_000
        head = b"POST /b HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n"
        assert json_of(exchange(edge, context, head + body))["body"] == body.decode()
        with secured(edge, context) as client:
            for path in (b"/1", b"/2"):
                client.sendall(b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n" % path)
                assert json_of(read_response(client))["path"] == path.decode()


def test_a_request_right_behind_the_handshake_is_not_lost(files, authority):
    """TLS 1.3 lets a client send before it has heard whether the server is content."""
    with served(**settings_of(files)) as edge:
        for _ in range(20):
            assert status_of(exchange(edge, client_context(authority))) == 200


def test_old_versions_of_tls_are_refused(files, authority):
    context = client_context(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with served(**settings_of(files)) as edge:
        assert is_refused(edge, context)


def test_plain_text_ends_its_connection_and_nothing_else(files, authority):
    with served(**settings_of(files)) as edge:
        assert status_of(exchange(edge, client_context(authority))) == 200
        before = len(os.listdir("/proc/self/fd"))
        for garbage in (GET, b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"\xff" * 9000):
            try:
                answer = edge.exchange(garbage)
            except ConnectionError:
                answer = b""
            assert b"HTTP" not in answer
        assert status_of(exchange(edge, client_context(authority))) == 200
        edge.settle()
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_slow_handshake_is_cut_off(files, authority):
    with served(**settings_of(files, head_timeout_seconds=0.2)) as edge:
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with edge.connect() as client:
                client.sendall(begun)
                with contextlib.suppress(ConnectionResetError):
                    assert read_to_end(client) == b""
        assert status_of(exchange(edge, client_context(authority))) == 200


def test_handshakes_that_never_end_make_room_for_clients(files, authority):
    with served(**settings_of(files, max_connections=4)) as edge:
        silent = [edge.connect() for _ in range(12)]
        try:
            assert status_of(exchange(edge, client_context(authority))) == 200
            ended = [client for client in silent if _has_ended(client)]
            assert len(ended) >= 8
            edge.settle()
            assert edge.port.server_state.connections == set()
        finally:
            for client in silent:
                client.close()


def _has_ended(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_new_certificate_holds_for_new_connections_and_old_ones_go_on(files, authority, pairs):
    context = client_context(authority)
    with served(**settings_of(files)) as edge, secured(edge, context) as before:
        assert before.getpeercert()["subject"][0][0][1] == "first"
        # For a moment the key is not the certificate's: the first pair stays in force.
        _replace(pairs["second"].certificate, files / "tls.crt")
        assert name_of(edge, context) == "first"
        _replace(pairs["second"].key, files / "tls.key")
        assert name_of(edge, context) == "second"
        before.sendall(GET)
        assert status_of(read_to_end(before)) == 200


def test_a_client_needs_a_certificate_that_the_authority_signed(files, authority, stranger, pairs):
    async def whose(scope, receive, send):
        await JSONResponse({"certificate": scope["state"]["certificate"]})(scope, receive, send)

    with served(whose, **settings_of(files, asks_clients=True)) as edge:
        known = client_context(authority, pairs["client"])
        assert json_of(exchange(edge, known)) == {"certificate": "client"}
        # The gatekeeper refuses who shows none; probes must come without.
        assert json_of(exchange(edge, client_context(authority))) == {"certificate": ""}
        assert is_refused(edge, client_context(authority, stranger.sign("client-of-stranger")))


def test_an_authority_that_is_replaced_is_trusted_no_more(files, authority, stranger, pairs):
    known, other = (
        client_context(authority, pair)
        for pair in (pairs["client"], stranger.sign("another-client"))
    )
    with served(**settings_of(files, asks_clients=True)) as edge:
        assert status_of(exchange(edge, known)) == 200
        _replace(stranger.file, files / "ca.crt")
        assert status_of(exchange(edge, other)) == 200
        assert is_refused(edge, known)


def _replace(source, target):
    """As an operator or Kubernetes does: at once, and with another time of change."""
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").rename(target)
    assert target.stat().st_mtime <= time.time()
