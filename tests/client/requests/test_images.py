"""Images through the client: one argument for both transports, and the same ones after a break."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from antipode import AsyncClient, Choice, InvalidRequestError, RetryPolicy
from antipode.requests.request import make_request
from antipode.transports.grpc_transport import message
from antipode.transports.http_transport import body

from tests.api.images.pictures import data_url, file_of, picture, png
from tests.api.images.vision import MAX_IMAGES, vision_form, vision_tokenizer
from tests.client.fake_server import SayingEngine, fake_server, relays

TRANSPORTS = ("grpc", "http")
QUICK = RetryPolicy(initial_backoff=0.001, max_backoff=0.02)
A, B = png(1), file_of(picture(seed=2), "JPEG")
TOKENIZER = vision_tokenizer()


class SeeingEngine(SayingEngine):
    """The same, of a model that reads images."""

    def __init__(self, *, halt_after: int | None = None) -> None:
        super().__init__(TOKENIZER.encode("a cat"), halt_after=halt_after)
        fields = {name: getattr(self.info, name) for name in self.info.__struct_fields__}
        self.info = type(self.info)(**fields | {"max_images": MAX_IMAGES})


def asked(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(words):
    return {"type": "text", "text": words}


def server_of(engine):
    return fake_server(engine, TOKENIZER, image_format=vision_form(TOKENIZER))


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


def forms(folder: Path):
    """The same file in every form that an argument may have."""
    path = folder / "a.png"
    path.write_bytes(A)
    return [
        {"type": "image", "image": A},
        {"type": "image", "image": bytearray(A)},
        {"type": "image", "image": path},
        {"type": "image", "image": data_url(A)},
        {"type": "image_url", "image_url": data_url(A)},
        {"type": "image_url", "image_url": {"url": data_url(A), "detail": "low"}},
    ]


async def test_every_form_of_an_image_asks_the_engine_the_same_over_both_transports(tmp_path):
    engine = SeeingEngine()
    async with server_of(engine) as server:
        for transport in TRANSPORTS:
            address = f"{transport}://{server.addresses[transport]}"
            async with AsyncClient(address, retry=QUICK, trust_env=False) as client:
                for form in forms(tmp_path):
                    stream = client.generate(asked(text("What?"), form, text("Say.")), seed=1)
                    [choice] = await stream.collect()
                    assert choice.text == "a cat"
    first, *others = engine.submitted
    assert len(others) == 2 * len(forms(tmp_path)) - 1
    assert len(first.images) == 1
    for other in others:
        assert (other.prompt_token_ids, other.images) == (first.prompt_token_ids, first.images)


async def test_a_broken_stream_goes_on_with_the_same_images(transport):
    engines = [SeeingEngine(halt_after=2), SeeingEngine()]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(server_of(engine)) for engine in engines]
        between = await stack.enter_async_context(
            relays([server.addresses[transport] for server in servers])
        )
        addresses = [f"{transport}://{relay.address}" for relay in between]
        client = await stack.enter_async_context(
            AsyncClient(*addresses, retry=QUICK, trust_env=False)
        )
        stream = client.generate(
            asked({"type": "image", "image": A}, {"type": "image", "image": B})
        )
        choice = Choice(index=0)
        async for delta in stream:
            choice.add(delta)
            if len(choice.token_ids) == 2:
                between[0].kill()
    assert (choice.text, stream.num_resumed) == ("a cat", 1)
    [first], [second] = engines[0].submitted, engines[1].submitted
    assert len(second.received[0]) == 2
    assert first.prompt_token_ids == second.prompt_token_ids
    assert first.images == second.images
    assert len(first.images) == 2


async def test_a_server_of_text_refuses_with_its_sentence(transport):
    engine = SayingEngine(TOKENIZER.encode("a cat"))
    async with fake_server(engine, TOKENIZER) as server:
        address = f"{transport}://{server.addresses[transport]}"
        async with AsyncClient(address, retry=QUICK, trust_env=False) as client:
            with pytest.raises(InvalidRequestError, match="this model reads only text"):
                await client.generate(asked({"type": "image", "image": A})).collect()


def request_of(*parts):
    return make_request(asked(*parts), {}, model="", n=1, request_id="")


def test_an_address_is_sent_as_it_is():
    url = "https://a.example/a.png"
    request = request_of({"type": "image", "image": url})
    [part] = body(request, None, "m")["messages"][0]["content"]
    assert part == {"type": "image_url", "image_url": {"url": url}}
    assert message(request, None).chat.messages[0].parts[0].image.url == url


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (A, "image/png"),
        (B, "image/jpeg"),
        (file_of(picture(), "WEBP"), "image/webp"),
        (file_of(picture(), "GIF"), "image/gif"),
        (b"other", ""),
    ],
)
def test_a_file_says_what_it_is(data, media_type):
    request = request_of({"type": "image", "image": data})
    assert message(request, None).chat.messages[0].parts[0].image.media_type == media_type
    [part] = body(request, None, "m")["messages"][0]["content"]
    assert part["image_url"]["url"].startswith(f"data:{media_type};base64,")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/etc/passwd", r"messages\[0\]\.content\[0\]\.image must be bytes, a pathlib\.Path"),
        ("file:///etc/passwd", "must be bytes"),
        (5, "must be bytes"),
        (None, "must be bytes"),
        (b"", "an image without bytes"),
        (Path("/nowhere/a.png"), "an image that cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_before_anything_is_sent(image, said):
    with pytest.raises(InvalidRequestError, match=said):
        request_of({"type": "image", "image": image})


async def test_a_request_that_is_too_long_for_the_server_is_not_sent_again(transport):
    engine = SeeingEngine()
    async with server_of(engine) as server:
        address = f"{transport}://{server.addresses[transport]}"
        async with AsyncClient(address, retry=QUICK, trust_env=False) as client:
            with pytest.raises(InvalidRequestError) as caught:
                await client.generate(asked({"type": "image", "image": bytes(9 << 20)})).collect()
    assert (caught.value.attempts, engine.submitted) == (1, [])
