from __future__ import annotations

import shutil

import pytest
from antipode import AntipodeError, AsyncClient, AuthenticationError, RetryPolicy, Tls

from server.api.access.gatekeeper import Gatekeeper
from tests.api.access.keys import KEY, two_keys
from tests.certificates import Authority
from tests.client.fake_server import FunctionEngine, fake_server

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pairs(authority):
    return {name: authority.sign(name) for name in ("server", "client")}


@pytest.fixture
def ca_file(authority, tmp_path):
    """Of each test its own: the contexts of one path are shared by tests."""
    return shutil.copy(authority.file, tmp_path / "ca.crt")


@pytest.fixture(params=["grpc", "http"])
def protocol(request):
    return request.param


@pytest.fixture
async def secured(authority, pairs, tmp_path, request):
    """Asks for a certificate and a key."""
    gatekeeper = Gatekeeper(keys=two_keys(tmp_path), needs_certificate=True)
    async with fake_server(
        FunctionEngine(),
        gatekeeper=gatekeeper,
        tls_cert_file=str(pairs["server"].certificate),
        tls_key_file=str(pairs["server"].key),
        tls_client_ca_file=str(authority.file),
    ) as server:
        yield server


async def generate(server, protocol, **options):
    address = f"{protocol}s://{server.addresses[protocol]}"
    async with AsyncClient(address, retry=ONCE, **options) as client:
        [choice] = await client.generate("hello", max_tokens=3, timeout=10).collect()
        return choice.token_ids


async def test_a_client_with_key_and_certificate_is_served(secured, protocol, ca_file, pairs):
    client = pairs["client"]
    tls = Tls(ca_file, client.certificate, client.key)
    assert len(await generate(secured, protocol, tls=tls, api_key=KEY)) == 3


async def test_a_wrong_key_is_said_to_be_one(secured, protocol, ca_file, pairs):
    client = pairs["client"]
    tls = Tls(ca_file, client.certificate, client.key)
    for key in ("", "wrong"):
        with pytest.raises(AuthenticationError, match="give a key"):
            await generate(secured, protocol, tls=tls, api_key=key)


async def test_without_a_certificate_nobody_is_served(secured, protocol, ca_file):
    with pytest.raises(AntipodeError):
        await generate(secured, protocol, tls=Tls(ca_file), api_key=KEY)


async def test_a_server_of_an_unknown_authority_is_not_trusted(secured, protocol):
    with pytest.raises(AntipodeError):
        await generate(secured, protocol, api_key=KEY)


def test_half_a_pair_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        Tls(cert_file="client.crt")
