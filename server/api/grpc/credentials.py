"""TLS on a gRPC port: each handshake takes the newest certificate.

Where clients need a certificate, gRPC asks every client for one, those of health checks included.
Knows no service.
"""

from __future__ import annotations

import grpc

from server.files.tls_files import TlsMaterial
from server.files.watched_files import WatchedFiles


def add_port(server: grpc.aio.Server, address: str, tls: WatchedFiles[TlsMaterial] | None) -> None:
    """Listen on `address`, with TLS where there is a certificate. RuntimeError if it is taken."""
    if tls is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, _credentials(tls))


def _credentials(tls: WatchedFiles[TlsMaterial]) -> grpc.ServerCredentials:
    first = tls.current()
    return grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        lambda: _configuration(tls.current()),
        require_client_authentication=bool(first.client_ca),
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    chain = [(material.key, material.certificate)]
    return grpc.ssl_server_certificate_configuration(chain, material.client_ca or None)
