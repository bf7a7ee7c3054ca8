from __future__ import annotations

import asyncio
import shutil
import socket

import grpc
import pytest

from server.files import watched_files
from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import failure, serving
from tests.certificates import Authority

REQUEST = pb.TokenizeRequest(text="x")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"), "stranger")


@pytest.fixture(autouse=True)
def files_are_looked_at_always(monkeypatch):
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.0)


@pytest.fixture
def files(tmp_path, authority):
    pair = authority.sign("server")
    shutil.copy(pair.certificate, tmp_path / "tls.crt")
    shutil.copy(pair.key, tmp_path / "tls.key")
    shutil.copy(authority.file, tmp_path / "ca.crt")
    return tmp_path


def settings_of(files, *, asks_clients=False, **others):
    return {
        "tls_cert_file": str(files / "tls.crt"),
        "tls_key_file": str(files / "tls.key"),
        "tls_client_ca_file": str(files / "ca.crt") if asks_clients else "",
        **others,
    }


def credentials(authority, pair=None):
    root = authority.file.read_bytes()
    if pair is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, pair.key.read_bytes(), pair.certificate.read_bytes())


async def answer(address, trusted):
    """What a new connection gets: the tokens, or the code of its failure."""
    # A channel of its own: grpc would else share the connection of one with equal credentials.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, trusted, options=options) as channel:
        call = GenerationStub(channel).Tokenize(REQUEST, timeout=5)
        try:
            return list((await call).token_ids)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_calls_are_answered_within_tls_and_plain_text_is_not(files, authority):
    async with serving(
        FakeEngine([]), credentials=credentials(authority), **settings_of(files)
    ) as server:
        assert (await server.stub.Tokenize(REQUEST)).token_ids
        async with grpc.aio.insecure_channel(server.address) as channel:
            error = await failure(GenerationStub(channel).Tokenize(REQUEST, timeout=5))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        host, _, port = server.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"\x00" * 100)
        assert (await server.stub.Tokenize(REQUEST)).token_ids


async def test_a_slow_handshake_is_cut_off(files, authority):
    settings = settings_of(files, head_timeout_seconds=0.2)
    async with serving(FakeEngine([]), credentials=credentials(authority), **settings) as server:
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection(*server.address.split(":"))
            writer.write(begun)
            async with asyncio.timeout(60):
                assert await reader.read() == b""
            writer.close()
        assert (await server.stub.Tokenize(REQUEST)).token_ids


async def test_a_client_needs_a_certificate_that_the_authority_signed(files, authority, stranger):
    known = credentials(authority, authority.sign("client"))
    async with serving(
        FakeEngine([]), credentials=known, **settings_of(files, asks_clients=True)
    ) as server:
        assert await answer(server.address, known)
        for wrong in (
            credentials(authority),
            credentials(authority, stranger.sign("client-of-stranger")),
        ):
            assert await answer(server.address, wrong) is grpc.StatusCode.UNAVAILABLE


async def test_files_that_are_replaced_hold_for_new_connections(files, authority, stranger):
    async with serving(
        FakeEngine([]), credentials=credentials(authority), **settings_of(files)
    ) as server:
        assert (await server.stub.Tokenize(REQUEST)).token_ids
        assert await answer(server.address, credentials(stranger)) is grpc.StatusCode.UNAVAILABLE
        pair = stranger.sign("replaced")
        shutil.copy(pair.key, files / "tls.key")
        shutil.copy(pair.certificate, files / "tls.crt")
        assert await answer(server.address, credentials(stranger))
        assert await answer(server.address, credentials(authority)) is grpc.StatusCode.UNAVAILABLE
        assert (await server.stub.Tokenize(REQUEST)).token_ids


async def test_an_authority_that_is_replaced_is_trusted_no_more(files, authority, stranger):
    known, other = authority.sign("client"), stranger.sign("another-client")
    old, new = (credentials(authority, pair) for pair in (known, other))
    async with serving(
        FakeEngine([]), credentials=old, **settings_of(files, asks_clients=True)
    ) as server:
        assert await answer(server.address, old)
        assert await answer(server.address, new) is grpc.StatusCode.UNAVAILABLE
        shutil.copy(stranger.file, files / "ca.crt")
        assert await answer(server.address, new)
        assert await answer(server.address, old) is grpc.StatusCode.UNAVAILABLE
