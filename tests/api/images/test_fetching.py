"""A file is fetched from the address that was checked, in bounded time and bytes, or not at all."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest

from server.api.images.addresses import ImageAddress
from server.api.images.fetching import FetchError, Network, fetch
from tests.certificates import Authority

HOST = "images.example.org"
PUBLIC = "8.8.8.8"
ADDRESS = ImageAddress(False, HOST, "/a.png?b")
FILE = b"the file"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nthe file"


class FakeNetwork(Network):
    """Leads every name to `found`, and every connection to a server of the test."""

    def __init__(self, port=0, found=(PUBLIC,), context=None):
        super().__init__()
        self.port, self.found, self.context = port, found, context
        self.connected = []

    async def resolve(self, address):
        return self.found

    async def connect(self, ip, address):
        self.connected.append(ip)
        name = address.host if self.context else None
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=name
        )


@asynccontextmanager
async def host(answer, *, seconds=0.0, context=None):
    """A server that says `answer`, and what it was asked."""
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await asyncio.sleep(seconds)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def fetched(network, *, max_bytes=1000, seconds=5.0, address=ADDRESS):
    deadline = asyncio.get_running_loop().time() + seconds
    return await fetch(address, max_bytes, deadline, network)


async def test_a_file_comes_from_the_checked_address_by_the_hosts_name():
    async with host(ANSWER) as (port, asked):
        network = FakeNetwork(port)
        assert await fetched(network) == FILE
    assert network.connected == [PUBLIC]
    [head] = asked
    assert head.startswith(b"GET /a.png?b HTTP/1.1\r\n")
    assert b"\r\nhost: images.example.org\r\n" in head.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nthe file\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\nthe file",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER,
        b"HTTP/1.0 200 OK\r\ncontent-encoding: identity\r\n\r\nthe file",
    ],
    ids=["chunks", "until the end, of any type", "hints first", "HTTP/1.0"],
)
async def test_every_form_of_answer_is_read(answer):
    async with host(answer) as (port, _):
        assert await fetched(FakeNetwork(port)) == FILE


REFUSED = {
    "redirect": (b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n", "answered 302; red"),
    "not found": (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answered 404"),
    "part": (b"HTTP/1.1 206 Partial\r\ncontent-length: 1\r\n\r\na", "answered 206"),
    "compressed": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na",
        "came compressed",
    ),
    "longer than it may be": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"a" * 2000,
        "more than 1000 bytes",
    ),
    "longer, without a length": (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 2000, "more than 1000 bytes"),
    "cut off": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nthe file", "could not be fetched"),
    "no HTTP": (b"220 mail ready\r\n\r\n", "could not be fetched"),
    "nothing": (b"", "could not be fetched"),
    "endless headers": (b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000, "could not be fetched"),
}


@pytest.mark.parametrize(("answer", "said"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_file_is_refused(answer, said):
    async with host(answer) as (port, _):
        with pytest.raises(FetchError, match=said):
            await fetched(FakeNetwork(port))


async def test_another_address_of_the_host_is_tried_where_one_takes_no_connection():
    class HalfReachable(FakeNetwork):
        async def connect(self, ip, address):
            if ip == "1.1.1.1":
                raise ConnectionRefusedError
            return await super().connect(ip, address)

    async with host(ANSWER) as (port, _):
        network = HalfReachable(port, found=("1.1.1.1", PUBLIC))
        assert await fetched(network) == FILE
    assert network.connected == [PUBLIC]


@pytest.mark.parametrize(
    "found",
    [(), ("127.0.0.1",), ("169.254.169.254",), ("::ffff:10.0.0.1",), (PUBLIC, "10.0.0.1")],
)
async def test_a_name_that_leads_anywhere_else_is_not_connected_to(found):
    network = FakeNetwork(found=found)
    with pytest.raises(FetchError, match="not public"):
        await fetched(network)
    assert network.connected == []


async def test_the_machines_own_name_is_refused_by_the_real_network():
    address = ImageAddress(False, "localhost", "/")
    with pytest.raises(FetchError, match="not public"):
        await fetched(Network(), address=address)


async def test_a_slow_host_is_given_up():
    async with host(ANSWER, seconds=0.5) as (port, _):
        with pytest.raises(FetchError, match="did not come in time"):
            await fetched(FakeNetwork(port), seconds=0.1)


async def test_a_closed_port_is_no_file():
    with pytest.raises(FetchError, match="could not be fetched"):
        await fetched(FakeNetwork(port=1))


@pytest.mark.parametrize(("name", "is_named"), [("localhost", True), (HOST, False)])
async def test_a_certificate_must_be_the_hosts(tmp_path, name, is_named):
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pair.certificate, pair.key)
    trusting = ssl.create_default_context(cafile=str(authority.file))
    async with host(ANSWER, context=server_side) as (port, _):
        network, secure = FakeNetwork(port, context=trusting), ImageAddress(True, name, "/")
        if is_named:
            assert await fetched(network, address=secure) == FILE
        else:
            with pytest.raises(FetchError, match="SSLCertVerificationError"):
                await fetched(network, address=secure)


@pytest.mark.parametrize(("name", "is_named"), [("localhost", True), (HOST, False)])
async def test_the_real_network_checks_the_certificate_of_the_address(
    tmp_path, monkeypatch, name, is_named
):
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pair.certificate, pair.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with host(ANSWER, context=server_side) as (port, _):
        monkeypatch.setattr(ImageAddress, "port", port)
        connecting = Network().connect("127.0.0.1", ImageAddress(True, name, "/"))
        if is_named:
            _, writer = await connecting
            writer.close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connecting
