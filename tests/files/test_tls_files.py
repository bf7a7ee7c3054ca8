from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from server.config.server_config import ServerConfig
from server.files.tls_files import TlsFilesError, tls_files
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.sign("server")


def config(certificate, key, client_ca=""):
    return ServerConfig(
        tls_cert_file=str(certificate), tls_key_file=str(key), tls_client_ca_file=str(client_ca)
    )


def test_without_files_there_is_no_tls():
    assert tls_files(ServerConfig()) is None


def test_both_protocols_get_the_same_certificate(authority, pair):
    material = tls_files(config(pair.certificate, pair.key, authority.file)).current()
    assert material.certificate == pair.certificate.read_bytes()
    assert material.client_ca == authority.file.read_bytes()
    assert [found["subject"] for found in material.context.get_ca_certs()] == [
        ((("commonName", "authority"),),)
    ]


def test_half_a_pair_is_refused(pair):
    for half in (config(pair.certificate, ""), config("", pair.key)):
        with pytest.raises(TlsFilesError, match="belong together"):
            tls_files(half)


def test_clients_certificates_need_the_servers(authority):
    with pytest.raises(TlsFilesError, match="needs --tls-cert-file"):
        tls_files(config("", "", authority.file))


def test_the_key_of_another_certificate_is_refused(authority, pair):
    with pytest.raises(TlsFilesError, match="the key is not the certificate's"):
        tls_files(config(pair.certificate, authority.sign("other").key))


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_refused(pair, tmp_path, content):
    (tmp_path / "wrong").write_bytes(content)
    for wrong in (
        config(tmp_path / "wrong", pair.key),
        config(pair.certificate, tmp_path / "wrong"),
        config(pair.certificate, pair.key, tmp_path / "wrong"),
    ):
        with pytest.raises(TlsFilesError, match="cannot be used") as caught:
            tls_files(wrong)
        assert str(tmp_path / "wrong") in str(caught.value)


def test_a_file_that_is_not_there_is_named(pair, tmp_path):
    with pytest.raises(TlsFilesError, match=r"none.*No such file"):
        tls_files(config(tmp_path / "none", pair.key))


def test_an_encrypted_key_is_refused_and_asks_nobody_for_its_passphrase(pair, tmp_path):
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "key").write_bytes(encrypted)
    with pytest.raises(TlsFilesError, match="store it without a passphrase"):
        tls_files(config(pair.certificate, tmp_path / "key"))
