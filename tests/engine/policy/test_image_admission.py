"""Images that the model cannot read are refused in one sentence, before anything runs."""

from __future__ import annotations

import msgspec
import pytest

from models.image_sizes import SquareSizes
from server.engine.policy.admission import AdmissionError
from server.engine.policy.image_admission import TEXT_ONLY, ImageLimits, ReadableImage
from server.link.frames import Submit
from server.link.sampling import SamplingParams
from tests.engine.builders import make_image

LIMITS = ImageLimits(ReadableImage(SquareSizes(side=1, num_tokens=4)), max_images=2)


def submit(*images, **fields):
    defaults = {"request_id": 0, "prompt_token_ids": [0] * 12, "arrival": 0.0}
    return Submit(**(defaults | fields), params=SamplingParams(max_tokens=1), images=list(images))


def test_images_of_the_format_in_their_order_are_read():
    LIMITS.check(submit(make_image(0, 4), make_image(8, 4)))
    LIMITS.check(submit())
    TEXT_ONLY.check(submit())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (submit(make_image(0, 4), pooling="mean"), "an embedding is made of text only"),
        (submit(*(make_image(4 * i, 4) for i in range(3))), "3 images are more than the 2"),
        (submit(make_image(0, 5)), "1 x 1 pixels and 5 tokens is not what the model reads"),
        (submit(make_image(0, 4, b"x")), "is not what the model reads: 1 x 1 and 4"),
        (submit(make_image(9, 4)), "lie outside the prompt"),
        (submit(make_image(0, 4), make_image(3, 4)), "overlap another's"),
        (submit(make_image(-1, 4)), "lie outside the prompt"),
    ],
)
def test_other_images_are_refused(request_, reason):
    with pytest.raises(AdmissionError, match=reason) as error:
        LIMITS.check(request_)
    assert error.value.kind == "invalid_request"


def test_an_image_of_another_size_is_refused():
    wide = msgspec.structs.replace(make_image(0, 4, b"six by"), width=2, pixels=b"six by")
    with pytest.raises(AdmissionError, match="an image of 2 x 1 pixels"):
        LIMITS.check(submit(wide))


def test_a_model_of_text_refuses_every_image():
    with pytest.raises(AdmissionError, match="reads no images: send text only"):
        TEXT_ONLY.check(submit(make_image(0, 4)))
