"""The places of images among the tokens of a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.api.images.decoding import ReadImage
from server.api.images.placing import image_starts, prompt_images
from server.errors import ApiError
from tests.api.images.pictures import FORM

SOFT = 9
IMAGE = (7, *(SOFT,) * 4, 8)
THREE = replace(FORM, token_id=SOFT)


@pytest.mark.parametrize(
    ("token_ids", "starts"),
    [
        ((1, 2, 3), ()),
        (IMAGE, (1,)),
        ((1, *IMAGE, 2), (2,)),
        ((1, *IMAGE, *IMAGE, 2, *IMAGE), (2, 8, 15)),
    ],
)
def test_an_image_starts_at_its_first_soft_token(token_ids, starts):
    assert image_starts(token_ids, [4] * len(starts), THREE) == starts


def test_images_may_differ_in_their_tokens():
    large = (7, *(SOFT,) * 6, 8)
    assert image_starts((*IMAGE, *large), [4, 6], THREE) == (1, 7)
    with pytest.raises(ApiError, match="has part of an image at its token 1"):
        image_starts((*large, *IMAGE), [4, 6], THREE)


@pytest.mark.parametrize(
    ("token_ids", "num_images", "said"),
    [
        ((1, SOFT, 2), 0, "holds the token 9, which stands for an image; send images as parts"),
        ((1, SOFT, 2), 1, "has part of an image at its token 1"),
        ((1, *(SOFT,) * 3), 1, "has part of an image at its token 1"),
        ((1, *(SOFT,) * 5), 1, "has part of an image at its token 1"),
        (IMAGE, 0, "holds the token 9, which stands for an image; send images as parts"),
        (IMAGE, 2, "has places for 1 images, but the messages have 2"),
        ((*IMAGE, *IMAGE), 1, "has places for 2 images, but the messages have 1"),
        ((1, 2), 1, "has places for 0 images"),
    ],
)
def test_tokens_that_do_not_fit_the_images_are_refused(token_ids, num_images, said):
    with pytest.raises(ApiError, match=said):
        image_starts(token_ids, [4] * num_images, THREE)


def test_images_are_given_their_places_in_order():
    fields = {"height": 2, "width": 1, "num_tokens": 4}
    images = [ReadImage(**fields, pixels=bytes([i] * 6), digest=b"%d" % i) for i in (1, 2)]
    first, second = prompt_images(images, (3, 20))
    assert (first.start, first.num_tokens, first.height, first.width) == (3, 4, 2, 1)
    assert (second.start, second.pixels, second.digest) == (20, bytes([2] * 6), b"2")
