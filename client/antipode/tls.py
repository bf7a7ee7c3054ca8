"""What a client trusts, and what it shows of itself, read from PEM files when it is made.

Knows neither transports nor addresses.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files. Empty: the machine's authorities, and no certificate of the client's."""

    ca_file: str | os.PathLike[str] = ""
    cert_file: str | os.PathLike[str] = ""
    key_file: str | os.PathLike[str] = ""

    def __post_init__(self) -> None:
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together; give both or neither")

    def context(self) -> ssl.SSLContext:
        """For HTTP. Raises OSError for files that cannot be used."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def texts(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """For gRPC: authorities, key and certificate, None for those that are not given."""
        return _read(self.ca_file), _read(self.key_file), _read(self.cert_file)


def _read(path: str | os.PathLike[str]) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
