"""Reads addresses of servers, and explains those that could not work.

Knows neither transports nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_SCHEMES = ("grpc", "grpcs", "http", "https")
_API_PATH = "/v1"


@dataclass(frozen=True, slots=True)
class Address:
    """`target` is host:port for gRPC, and for HTTP the address before /v1."""

    target: str
    is_grpc: bool
    is_secure: bool


def read_address(address: str) -> Address:
    """Raises ValueError for an address that no server can have."""
    url = urlsplit(address)
    if not url.netloc:
        raise ValueError(f"{address!r} is no address; write it as grpc://host:port or http://...")
    if url.scheme not in _SCHEMES:
        raise ValueError(
            f"{address!r} has the scheme {url.scheme!r}; use grpc, grpcs, http or https"
        )
    # Reading the port checks it.
    port = url.port
    if url.query or url.fragment:
        raise ValueError(f"{address!r} has a query; end it before the question mark")
    is_secure = url.scheme in ("grpcs", "https")
    if url.scheme in ("grpc", "grpcs"):
        _check_grpc(address, url, port)
        return Address(url.netloc, is_grpc=True, is_secure=is_secure)
    path = url.path.rstrip("/").removesuffix(_API_PATH)
    if f"{_API_PATH}/" in path:
        raise ValueError(f"{address!r} names one endpoint; end it before {_API_PATH}")
    return Address(f"{url.scheme}://{url.netloc}{path}", is_grpc=False, is_secure=is_secure)


def _check_grpc(address: str, url: SplitResult, port: int | None) -> None:
    if url.path.strip("/"):
        raise ValueError(
            f"{address!r} has a path, which gRPC does not have; write {url.scheme}://{url.netloc},"
            " or http:// and the HTTP port"
        )
    # gRPC would take 443, where nobody answers without TLS.
    if port is None and url.scheme == "grpc":
        raise ValueError(f"{address!r} has no port; write one, such as {address.rstrip('/')}:9000")
