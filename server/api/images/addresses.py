"""Which addresses of images the server may fetch: named hosts, at addresses of the public internet.

A URL is read here once and sent as it was read, so no second parser can understand it otherwise.
Connects to nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from server.api.images.sent_image import SentImage, refused

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?",
    re.IGNORECASE,
)
_MAX_URL_CHARS = 4096
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Networks inside of it that lead to an IPv4 address, or to nobody.
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2002::/16", "2001:db8::/32")))


@dataclass(frozen=True, slots=True)
class ImageAddress:
    """Where an image is fetched from: `target` is path and query."""

    is_secure: bool
    host: str
    target: str

    @property
    def port(self) -> int:
        return _PORTS["https" if self.is_secure else "http"]


def image_address(image: SentImage, hosts: Collection[str]) -> ImageAddress:
    """The address of an image on one of `hosts`. ApiError for any other."""
    if not hosts:
        raise refused(
            image.where,
            "has the address of an image, but this server fetches none; send it as"
            " data:image/png;base64,...",
        )
    found = _URL.fullmatch(image.url) if len(image.url) <= _MAX_URL_CHARS else None
    if found is None:
        raise refused(
            image.where,
            "has a URL that is not read here; send https://HOST/PATH without user, password,"
            " fragment and other characters than those of RFC 3986",
        )
    scheme, host = found["scheme"].lower(), found["host"].lower()
    if found["port"] is not None and int(found["port"]) != _PORTS[scheme]:
        raise refused(image.where, f"has a URL with the port {found['port']}; leave it out")
    if host not in hosts:
        raise refused(image.where, f"has a URL of the host {host[:80]!r}, which is not allowed")
    target = found["target"] or "/"
    return ImageAddress(scheme == "https", host, target if target[0] == "/" else f"/{target}")


def is_public(address: str) -> bool:
    """Whether an address that a name led to is one of the public internet, for one host."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return True
    return ip in _GLOBAL_UNICAST and not any(ip in network for network in _TRANSLATED)
