"""Addresses as users write them: read, or explained."""

from __future__ import annotations

import pytest
from antipode.address import Address, read_address


@pytest.mark.parametrize(
    ("address", "target", "is_grpc", "is_secure"),
    [
        ("grpc://host:9000", "host:9000", True, False),
        ("grpc://host:9000/", "host:9000", True, False),
        ("grpcs://host", "host", True, True),
        ("http://host:8000", "http://host:8000", False, False),
        ("http://host:8000/v1", "http://host:8000", False, False),
        ("http://host:8000/v1/", "http://host:8000", False, False),
        ("https://host/prefix/v1", "https://host/prefix", False, True),
        ("https://host/prefix", "https://host/prefix", False, True),
    ],
)
def test_an_address_is_read(address, target, is_grpc, is_secure):
    assert read_address(address) == Address(target, is_grpc=is_grpc, is_secure=is_secure)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost:9000", "write it as grpc://host:port"),
        ("localhost", "write it as grpc://host:port"),
        ("ftp://localhost", "use grpc, grpcs, http or https"),
        (
            "grpc://localhost:9000/v1",
            "has a path, which gRPC does not have; write grpc://localhost:9",
        ),
        ("grpc://localhost", "has no port; write one, such as grpc://localhost:9000"),
        ("http://localhost:8000/v1/completions", "names one endpoint; end it before /v1"),
        ("http://localhost:8000?key=1", "end it before the question mark"),
        ("http://localhost:port", "Port could not be cast"),
    ],
)
def test_an_address_that_cannot_work_is_explained(address, words):
    with pytest.raises(ValueError) as error:
        read_address(address)
    assert words in str(error.value)
