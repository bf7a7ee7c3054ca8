"""One gRPC call over plain HTTP/2, for trailers that gRPC's own library keeps from programs."""

from __future__ import annotations

import base64
import socket
import struct

import h2.config
import h2.connection
import h2.events

_TIMEOUT = 30.0


def trailers_of(address: str, method: str, message: bytes) -> dict[str, str | bytes]:
    """The trailers of a call, by name; those whose names end in -bin are decoded."""
    host, _, port = address.rpartition(":")
    config = h2.config.H2Configuration(header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT) as link:
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, _headers(address, method))
        connection.send_data(stream, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
        link.sendall(connection.data_to_send())
        found: dict[str, str | bytes] = {}
        while data := link.recv(65536):
            for event in connection.receive_data(data):
                # An error's trailers come in the only headers.
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    found |= {name: _value(name, value) for name, value in event.headers}
                if isinstance(event, h2.events.StreamEnded):
                    return found
            link.sendall(connection.data_to_send())
    raise ConnectionError("the connection ended before the call")


def _headers(address: str, method: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


def _value(name: str, value: str) -> str | bytes:
    if not name.endswith("-bin"):
        return value
    return base64.b64decode(value + "=" * (-len(value) % 4))
