"""The images of a request are bounded, fetched where that is allowed, and decoded in threads."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from server.api.images import image_reader
from server.api.images.image_reader import ImageLimits, ImageReader
from server.api.images.sent_image import SentImage
from server.errors import ApiError, ErrorKind
from tests.api.images.pictures import FORM, file_of, picture, png
from tests.api.images.test_fetching import HOST, FakeNetwork, host


@pytest.fixture(scope="module")
def large():
    return file_of(picture(size=(2000, 2000)), "PNG", compress_level=1)


def sent(*files: bytes) -> list[SentImage]:
    return [SentImage(where=f"content[{i}]", data=data) for i, data in enumerate(files)]


def answer(file: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(file), file)


async def test_images_are_read_in_their_order():
    images = await ImageReader(FORM, ImageLimits()).read(sent(png(1), png(2)))
    again = await ImageReader(FORM, ImageLimits()).read(sent(png(2), png(1)))
    assert [image.digest for image in images] == [image.digest for image in reversed(again)]
    first = images[0]
    assert first.digest == hashlib.sha256(b"32x32:" + first.pixels).digest()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ImageLimits(max_bytes=len(png()) - 1), r"content\[0\] has an image of \d+ bytes"),
        (ImageLimits(max_request_bytes=2 * len(png()) - 1), r"content\[1\] brings the images to"),
        (ImageLimits(max_pixels=999), r"content\[0\] has an image of 50 by 20 pixels"),
    ],
)
async def test_a_file_beyond_a_bound_is_refused_by_its_place(limits, said):
    reader = ImageReader(FORM, limits)
    with pytest.raises(ApiError, match=said) as caught:
        await reader.read(sent(png(), png()))
    assert caught.value.kind is ErrorKind.INVALID_REQUEST


async def test_what_is_within_the_bounds_is_read():
    limits = ImageLimits(max_bytes=len(png()), max_request_bytes=2 * len(png()), max_pixels=50 * 20)
    assert len(await ImageReader(FORM, limits).read(sent(png(), png()))) == 2


async def test_more_than_may_wait_is_refused_and_later_taken(monkeypatch, large):
    monkeypatch.setattr(image_reader, "MAX_WAITING_BYTES", 2 * len(large))
    reader = ImageReader(FORM, ImageLimits(max_bytes=1 << 30, max_request_bytes=1 << 30))
    reading = [asyncio.create_task(reader.read(sent(large))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await reader.read(sent(png()))
    assert caught.value.kind is ErrorKind.QUEUE_FULL
    await asyncio.gather(*reading)
    assert len(await reader.read(sent(png()))) == 1


async def test_more_images_than_may_wait_are_refused_and_later_taken(monkeypatch):
    """Unless nobody else waits: then there will never be more room."""
    monkeypatch.setattr(image_reader, "MAX_WAITING_IMAGES", 2)
    reader = ImageReader(FORM, ImageLimits())
    assert len(await reader.read(sent(png()) * 3)) == 3
    reading = asyncio.create_task(reader.read(sent(png()) * 2))
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await reader.read(sent(png()))
    assert caught.value.kind is ErrorKind.QUEUE_FULL
    await reading
    assert len(await reader.read(sent(png()))) == 1


async def test_a_refused_request_waits_no_longer(monkeypatch):
    monkeypatch.setattr(image_reader, "MAX_WAITING_BYTES", len(png()))
    reader = ImageReader(FORM, ImageLimits())
    for _ in range(3):
        with pytest.raises(ApiError, match="no PNG"):
            await reader.read(sent(b"no image"))
    assert len(await reader.read(sent(png()))) == 1


async def test_the_event_loop_goes_on_while_an_image_is_decoded(large):
    reader = ImageReader(FORM, ImageLimits(max_bytes=1 << 30, max_request_bytes=1 << 30))
    reading = asyncio.create_task(reader.read(sent(large)))
    num_turns = 0
    while not reading.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert num_turns > 5


def fetching_reader(port: int, **limits) -> tuple[ImageReader, FakeNetwork]:
    network = FakeNetwork(port)
    limits = {"hosts": frozenset({HOST})} | limits
    return ImageReader(FORM, ImageLimits(**limits), network), network


def at(url: str) -> SentImage:
    return SentImage(where="content[1]", url=url)


async def test_a_fetched_image_is_the_same_as_one_that_was_sent():
    async with host(answer(png())) as (port, _):
        reader, _ = fetching_reader(port)
        fetched, given = await reader.read([at(f"https://{HOST}/a.txt"), *sent(png())])
    assert fetched == given


@pytest.mark.parametrize("url", ["https://evil.example/a.png", f"https://{HOST}:8080/a.png"])
async def test_no_address_is_fetched_if_one_of_them_must_not_be(url):
    async with host(answer(png())) as (port, asked):
        reader, network = fetching_reader(port)
        with pytest.raises(ApiError, match=r"content\[1\] has a URL"):
            await reader.read([at(f"https://{HOST}/a.png"), at(url)])
    assert (network.connected, asked) == ([], [])


async def test_by_default_no_host_is_allowed():
    async with host(answer(png())) as (port, asked):
        reader, _ = fetching_reader(port, hosts=frozenset())
        with pytest.raises(ApiError, match="this server fetches none"):
            await reader.read([at(f"https://{HOST}/a.png")])
    assert asked == []


@pytest.mark.parametrize(
    ("file", "limits", "said"),
    [
        (b"<html>", {}, r"content\[1\] has an image that is no PNG"),
        (png(), {"max_bytes": 100}, r"content\[1\] has an image that has more than 100 bytes"),
    ],
)
async def test_what_a_host_sends_is_bounded_and_decoded_too(file, limits, said):
    async with host(answer(file)) as (port, _):
        reader, _ = fetching_reader(port, **limits)
        with pytest.raises(ApiError, match=said):
            await reader.read([at(f"https://{HOST}/a.png")])


async def test_fetched_files_count_together():
    async with host(answer(png())) as (port, asked):
        reader, _ = fetching_reader(port, max_request_bytes=2 * len(png()) - 1)
        with pytest.raises(ApiError, match="brings the images to"):
            await reader.read([at(f"https://{HOST}/a.png")] * 4)
    assert len(asked) == 2


async def test_all_addresses_of_a_request_share_one_time(monkeypatch):
    monkeypatch.setattr(image_reader, "FETCH_SECONDS", 0.3)
    async with host(answer(png()), seconds=0.2) as (port, asked):
        reader, _ = fetching_reader(port)
        with pytest.raises(ApiError, match="did not come in time"):
            await reader.read([at(f"https://{HOST}/a.png")] * 4)
    assert len(asked) == 2
