"""What an API server that calls a webhook by an address takes for its certificate."""

from __future__ import annotations

import ssl
import threading
from socket import create_connection, create_server

from k8s.clusters.control_plane.certificate import write_certificate


def test_a_client_that_trusts_the_certificate_takes_the_address(tmp_path):
    text = write_certificate("127.0.0.1", tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    with create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=_answer_once, args=(listener, served))
        answering.start()
        trusting = ssl.create_default_context(cadata=text)
        with (
            create_connection(listener.getsockname(), timeout=20) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as talking,
        ):
            assert talking.recv(2) == b"ok"
        answering.join()
    assert (tmp_path / "tls.key").stat().st_mode & 0o077 == 0


def _answer_once(listener, context):
    plain, _ = listener.accept()
    with context.wrap_socket(plain, server_side=True) as talking:
        talking.sendall(b"ok")
