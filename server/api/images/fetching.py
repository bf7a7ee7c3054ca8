"""Fetches the file of an image from an allowed host, by one request over HTTP/1.1.

The connection goes to an address that was checked, never to a name. No redirect is followed,
nothing is inflated, and no proxy is asked. Knows neither images nor who may be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

import h11

from server.api.images.addresses import ImageAddress, is_public

_READ_BYTES = 1 << 16

type Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network:
    """The names and connections of the machine, with the authorities that it trusts."""

    def __init__(self) -> None:
        self._trusted: ssl.SSLContext | None = None

    async def resolve(self, address: ImageAddress) -> Sequence[str]:
        """The addresses that the host's name leads to. OSError."""
        loop = asyncio.get_running_loop()
        entries = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [str(entry[4][0]) for entry in entries]

    async def connect(self, ip: str, address: ImageAddress) -> Streams:
        """A connection to `ip`, whose certificate must be the host's. OSError."""
        if not address.is_secure:
            return await asyncio.open_connection(ip, address.port)
        if self._trusted is None:
            # Reading the authorities takes longer than the event loop may stand still.
            self._trusted = await asyncio.to_thread(ssl.create_default_context)
        return await asyncio.open_connection(
            ip, address.port, ssl=self._trusted, server_hostname=address.host
        )


class FetchError(Exception):
    """Why a file could not be fetched; the message goes on from the image's place."""


async def fetch(address: ImageAddress, max_bytes: int, deadline: float, network: Network) -> bytes:
    """The file, before `deadline` of the event loop's clock.

    FetchError for a host that is not public, or that does not answer with a file.
    """
    try:
        async with asyncio.timeout_at(deadline):
            found = _checked(await network.resolve(address))
            return await _download(address, await _connected(found, address, network), max_bytes)
    except TimeoutError:
        raise FetchError("did not come in time") from None
    except (OSError, h11.ProtocolError) as error:
        raise FetchError(f"could not be fetched ({type(error).__name__})") from error


def _checked(found: Sequence[str]) -> Sequence[str]:
    """The addresses of a host. All must be public: which one is taken must not matter."""
    if not found or not all(map(is_public, found)):
        raise FetchError("is on a host that has no address, or one that is not public")
    return found


async def _connected(found: Sequence[str], address: ImageAddress, network: Network) -> Streams:
    """A connection to the first of the addresses that takes one. OSError of the last."""
    *others, last = found
    for ip in others:
        with contextlib.suppress(OSError):
            return await network.connect(ip, address)
    return await network.connect(last, address)


async def _download(address: ImageAddress, streams: Streams, max_bytes: int) -> bytes:
    reader, writer = streams
    try:
        connection = h11.Connection(h11.CLIENT)
        writer.write(connection.send(_request(address)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        return await _file(_events(connection, reader), max_bytes)
    finally:
        writer.close()


def _request(address: ImageAddress) -> h11.Request:
    headers = {
        "host": address.host,
        "accept": "image/png, image/jpeg, image/webp, image/gif",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "antipode",
    }
    return h11.Request(method="GET", target=address.target, headers=list(headers.items()))


async def _events(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> AsyncIterator[h11.Event]:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Event):
            yield event
        else:
            return


async def _file(events: AsyncIterator[h11.Event], max_bytes: int) -> bytes:
    """The body of an answer of status 200, bounded as it comes and not by what it declares."""
    body = bytearray()
    async for event in events:
        match event:
            case h11.Response():
                _check_head(event)
            case h11.Data():
                body += event.data
                if len(body) > max_bytes:
                    raise FetchError(f"has more than {max_bytes} bytes")
            case h11.EndOfMessage():
                return bytes(body)
    raise FetchError("was cut off")


def _check_head(response: h11.Response) -> None:
    if response.status_code != 200:
        raise FetchError(
            f"could not be fetched: its host answered {response.status_code}"
            + ("; redirects are not followed" if 300 <= response.status_code < 400 else "")
        )
    headers = dict(response.headers)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise FetchError("came compressed, which was not asked for")
