"""What requests hold of an image is read strictly, and refused by its place."""

from __future__ import annotations

import base64

import pytest

from server.api.images.sent_image import image_of_base64, image_of_bytes, image_of_url
from server.errors import ApiError, ErrorKind
from tests.api.images.pictures import data_url, png

WHERE = "messages[0].content[1]"
# Longer than one piece of the decoder.
LONG = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    "url",
    [
        data_url(png()),
        data_url(png(), "image/jpg"),
        data_url(png(), ""),
        data_url(png(), "application/octet-stream"),
        data_url(png(), "image/png;charset=utf-8"),
        data_url(png()).replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
        "data:image/png;base64," + base64.encodebytes(png()).decode(),
    ],
)
def test_a_data_url_is_a_file_whatever_its_media_type_says_of_images(url):
    image = image_of_url(url, WHERE)
    assert (image.data, image.url, image.where) == (png(), "", WHERE)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 1 << 18, len(LONG)])
def test_base64_of_any_length_is_decoded(length):
    data = LONG[:length]
    assert image_of_base64(base64.b64encode(data).decode(), "", WHERE).data == data


@pytest.mark.parametrize("url", ["http://a.example/x.png", "HTTPS://a.example/x.png"])
def test_an_address_is_kept_as_it_is(url):
    image = image_of_url(url, WHERE)
    assert (image.data, image.url) == (b"", url)


WRONG_URLS = {
    "empty": ("", "begins with ''"),
    "base64 without data:": (base64.b64encode(png()).decode(), "send data:image/png;base64,"),
    "a file of the server": ("file:///etc/passwd", "begins with 'file:///"),
    "ftp": ("ftp://a.example/x.png", "begins with 'ftp:"),
    "a path": ("/etc/passwd", "begins with '/etc/"),
    "no comma": ("data:image/png;base64", "without base64"),
    "no base64": ("data:image/png,%89PNG", "without base64"),
    "base64 not last": ("data:image/png;base64;a=b,aaaa", "without base64"),
    "no image": ("data:application/pdf;base64,aaaa", "media type 'application/pdf'"),
    "a page": ("data:text/html;base64,aaaa", "media type 'text/html'"),
    "nothing": ("data:image/png;base64,", "without bytes"),
    "only blanks": ("data:image/png;base64, \n", "without bytes"),
    "wrong letters": ("data:image/png;base64,aa*a", "no valid base64"),
    "letters of URLs": ("data:image/png;base64,-_-_", "no valid base64"),
    "percent signs": ("data:image/png;base64,aa%3D%3D", "no valid base64"),
    "no padding": ("data:image/png;base64,aaa", "no valid base64"),
    "one letter": ("data:image/png;base64,a", "no valid base64"),
    "padding in the middle": ("data:image/png;base64,aa==aaaa", "no valid base64"),
    "too much padding": ("data:image/png;base64,aa===", "no valid base64"),
    "no ASCII": ("data:image/png;base64,aaaä", "no valid base64"),
    "a lone surrogate": ("data:image/png;base64,aaa\ud800", "no valid base64"),
}


@pytest.mark.parametrize(("url", "said"), WRONG_URLS.values(), ids=WRONG_URLS)
def test_what_is_no_url_of_an_image(url, said):
    with pytest.raises(ApiError, match=said) as caught:
        image_of_url(url, WHERE)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.param == WHERE
    assert caught.value.message.startswith(WHERE)


def test_padding_where_two_pieces_meet_is_refused():
    piece = "a" * ((1 << 18) - 2) + "=="
    with pytest.raises(ApiError, match="no valid base64"):
        image_of_base64(piece + "aaaa", "image/png", WHERE)


def test_bytes_have_a_media_type_of_an_image_or_none():
    assert image_of_bytes(png(), "", WHERE).data == png()
    with pytest.raises(ApiError, match="media type 'text/plain'"):
        image_of_bytes(png(), "text/plain", WHERE)
    with pytest.raises(ApiError, match="without bytes"):
        image_of_bytes(b"", "image/png", WHERE)
