"""Parts of messages over gRPC: files, URLs and texts, and the resuming of a stream with images."""

from __future__ import annotations

import pytest

from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure
from tests.api.images.pictures import data_url, png
from tests.api.images.surfaces import CHAT, ask_http, grpc_chat, openai_messages, vision_serving
from tests.api.images.vision import vision_engine

A = png(1)
ASKED = [("user", [A, "What is this?"])]
ANSWER = [[72], [73], [*FakeEngine.EOS]]


async def test_a_stream_is_resumed_with_the_same_images_over_grpc():
    engine = vision_engine(ANSWER)
    async with vision_serving(engine) as s:
        sampling = pb.Sampling(seed=1)
        request = pb.GenerateRequest(chat=grpc_chat(ASKED), sampling=sampling)
        request.return_token_ids = True
        [first, *_] = await collect(s.stub.Generate(request))
        request.resume.model_version = "1"
        request.resume.received.add(ids=[72])
        request.resumed_prompt.ids.extend(first.start.prompt_token_ids)
        await collect(s.stub.Generate(request))
        request.chat.messages[0].ClearField("parts")
        refused = await failure(s.stub.Generate(request))
    original, resumed = engine.submitted
    assert original.prompt_token_ids == resumed.prompt_token_ids
    assert original.images == resumed.images != []
    assert "image" in refused.details()


GRPC_PARTS = {
    "no part": ([pb.ContentPart()], "chat.messages[0].parts[0] has neither text nor an image"),
    "no source": (
        [pb.ContentPart(text="a"), pb.ContentPart(image=pb.Image(media_type="image/png"))],
        "chat.messages[0].parts[1] has an image with neither data nor url",
    ),
    "another type": (
        [pb.ContentPart(image=pb.Image(data=A, media_type="text/html"))],
        "chat.messages[0].parts[0] has the media type 'text/html'",
    ),
    "an address": (
        [pb.ContentPart(image=pb.Image(url="https://a.example/a.png"))],
        "chat.messages[0].parts[0] has the address of an image, but this server fetches none",
    ),
}


@pytest.mark.parametrize(("parts", "said"), GRPC_PARTS.values(), ids=GRPC_PARTS)
async def test_parts_over_grpc_that_cannot_be_read_are_named(parts, said):
    engine = vision_engine(ANSWER)
    message = pb.ChatMessage(role="user", parts=parts)
    async with vision_serving(engine) as s:
        call = s.stub.Generate(pb.GenerateRequest(chat=pb.Chat(messages=[message])))
        assert (await failure(call)).details().startswith(said)


async def test_content_and_parts_cannot_both_be_set():
    message = pb.ChatMessage(role="user", content="a", parts=[pb.ContentPart(text="b")])
    async with vision_serving(vision_engine(ANSWER)) as s:
        call = s.stub.Generate(pb.GenerateRequest(chat=pb.Chat(messages=[message])))
        assert "both content and parts" in (await failure(call)).details()


async def test_a_data_url_over_grpc_is_the_same_image():
    engine = vision_engine(ANSWER)
    part = pb.ContentPart(image=pb.Image(url=data_url(A)))
    message = pb.ChatMessage(role="user", parts=[part, pb.ContentPart(text="What is this?")])
    async with vision_serving(engine) as s:
        await collect(s.stub.Generate(pb.GenerateRequest(chat=pb.Chat(messages=[message]))))
        await ask_http(s, CHAT, {"messages": openai_messages(ASKED)})
    first, second = engine.submitted
    assert (first.prompt_token_ids, first.images) == (second.prompt_token_ids, second.images)
