"""Which addresses the server may fetch: exact hosts, one reading of a URL, public addresses."""

from __future__ import annotations

import pytest

from server.api.images.addresses import ImageAddress, image_address, is_public
from server.api.images.sent_image import SentImage
from server.errors import ApiError

HOST = "images.example.org"
HOSTS = frozenset({HOST, "b.example"})


def read(url, hosts=HOSTS):
    return image_address(SentImage(where="messages[0].content[0]", url=url), hosts)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"https://{HOST}/a/b.png", ImageAddress(True, HOST, "/a/b.png")),
        (f"http://{HOST}/a.png?w=1&h=2", ImageAddress(False, HOST, "/a.png?w=1&h=2")),
        (f"HTTPS://{HOST.upper()}/A.png", ImageAddress(True, HOST, "/A.png")),
        (f"https://{HOST}", ImageAddress(True, HOST, "/")),
        (f"https://{HOST}?a", ImageAddress(True, HOST, "/?a")),
        (f"https://{HOST}:443/a", ImageAddress(True, HOST, "/a")),
        (f"http://{HOST}:80/a", ImageAddress(False, HOST, "/a")),
        (f"https://{HOST}/%20@a:b//../c", ImageAddress(True, HOST, "/%20@a:b//../c")),
    ],
)
def test_a_url_is_read_once(url, address):
    assert read(url) == address
    assert address.port == (443 if address.is_secure else 80)


WRONG = {
    "another host": "https://evil.example/a.png",
    "a host below": f"https://a.{HOST}/",
    "a host that begins so": f"https://{HOST}.evil.example/",
    "a host that ends so": f"https://evil{HOST}/",
    "a dot at the end": f"https://{HOST}./",
    "a user": f"https://user@{HOST}/",
    "a user that looks like a host": f"https://{HOST}@evil.example/",
    "a password": f"https://u:p@{HOST}/",
    "a backslash": f"https://evil.example\\@{HOST}/",
    "a backslash behind the host": f"https://{HOST}\\.evil.example/",
    "an odd port": f"https://{HOST}:8443/",
    "the port of http": f"https://{HOST}:80/",
    "a port of no digits": f"https://{HOST}:x/",
    "an empty port": f"https://{HOST}:/",
    "a fragment": f"https://{HOST}/#@evil.example",
    "a blank": f"https://{HOST}/a b",
    "a line break": f"https://{HOST}/a\r\nhost: evil.example",
    "a line break at the end": f"https://{HOST}/\n",
    "a tab in the scheme": f"ht\ttps://{HOST}/",
    "a NUL": f"https://{HOST}/\0",
    "no ASCII": f"https://{HOST}/ä",
    "letters that look the same": "https://images.example.оrg/",
    "a wide dot": "https://images。example.org/",
    "one slash": f"https:/{HOST}/",
    "three slashes": f"https:///{HOST}/",
    "no scheme": f"//{HOST}/",
    "an address": "https://127.0.0.1/",
    "an address of IPv6": "https://[::1]/",
    "a number": "https://2130706433/",
    "too long": f"https://{HOST}/{'a' * 5000}",
}


@pytest.mark.parametrize("url", WRONG.values(), ids=WRONG)
def test_other_urls_are_refused(url):
    with pytest.raises(ApiError, match=r"messages\[0\]\.content\[0\] has a URL"):
        read(url)


def test_without_hosts_nothing_is_fetched():
    with pytest.raises(ApiError, match="this server fetches none"):
        read(f"https://{HOST}/a.png", frozenset())


PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450:4001::1"]
NOT_PUBLIC = {
    "loopback": "127.0.0.1",
    "more loopback": "127.1.2.3",
    "10/8": "10.0.0.1",
    "172.16/12": "172.31.255.255",
    "192.168/16": "192.168.1.1",
    "metadata": "169.254.169.254",
    "link local": "169.254.0.1",
    "shared": "100.64.0.1",
    "this network": "0.0.0.0",
    "broadcast": "255.255.255.255",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "loopback of IPv6": "::1",
    "unspecified": "::",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "mapped public": "::ffff:8.8.8.8",
    "compatible": "::127.0.0.1",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "NAT64 of a network": "64:ff9b:1::1",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001::1",
    "documentation of IPv6": "2001:db8::1",
    "unique local": "fd00:ec2::254",
    "link local of IPv6": "fe80::1",
    "with a zone": "fe80::1%eth0",
    "site local": "fec0::1",
    "multicast of IPv6": "ff02::1",
    "discarded": "100::1",
    "a name": "localhost",
    "nothing": "",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC)
def test_other_addresses_are_not(address):
    assert not is_public(address)
