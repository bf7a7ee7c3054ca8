"""The server's certificate, its key and the authorities of its clients, read from PEM files.

A certificate or key that cannot be used is refused in one sentence. Knows neither ports nor
protocols: HTTP takes the context, gRPC the PEM text.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from server.config.server_config import ServerConfig
from server.files.watched_files import WatchedFileError, WatchedFiles

_ALPN = ["http/1.1"]


class TlsFilesError(WatchedFileError):
    """The files cannot be used; the message names them and says what to do."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM text, and the context made of it. `client_ca` is empty where clients need no certificate.

    A client of `context` may come without a certificate, because probes have none. One that it
    shows must be valid.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes
    context: ssl.SSLContext


def tls_files(config: ServerConfig) -> WatchedFiles[TlsMaterial] | None:
    """The files that the settings name; None without TLS. Raises TlsFilesError."""
    if bool(config.tls_cert_file) != bool(config.tls_key_file):
        raise TlsFilesError("--tls-cert-file and --tls-key-file belong together: set both")
    if not config.tls_cert_file:
        if config.tls_client_ca_file:
            raise TlsFilesError(
                "--tls-client-ca-file needs --tls-cert-file: clients show a certificate only to a"
                " server that has one"
            )
        return None
    certificate, key = Path(config.tls_cert_file), Path(config.tls_key_file)
    client_ca = Path(config.tls_client_ca_file) if config.tls_client_ca_file else None
    paths = [certificate, key, *([client_ca] if client_ca else [])]
    return WatchedFiles(paths, lambda: _read(certificate, key, client_ca))


def _read(certificate: Path, key: Path, client_ca: Path | None) -> TlsMaterial:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise TlsFilesError(
            f"the certificate {certificate} and its key {key} cannot be used: {_reason(error)}"
        ) from error
    if client_ca is not None:
        _trust(context, client_ca)
    return TlsMaterial(
        certificate.read_bytes(),
        key.read_bytes(),
        client_ca.read_bytes() if client_ca else b"",
        context,
    )


def _trust(context: ssl.SSLContext, client_ca: Path) -> None:
    try:
        context.load_verify_locations(client_ca)
    except (OSError, ValueError) as error:
        raise TlsFilesError(
            f"the clients' authorities {client_ca} cannot be used: {_reason(error)}"
        ) from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _refuse_password() -> NoReturn:
    raise ValueError("the key is encrypted; store it without a passphrase")


def _reason(error: Exception) -> str:
    match getattr(error, "reason", None):
        case "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        case "NO_START_LINE" | "PEM_LIB" | "NO_CERTIFICATE_OR_CRL_FOUND" | "BAD_BASE64_DECODE":
            return "a file is not PEM, or its content is damaged"
    return getattr(error, "strerror", None) or str(error)
