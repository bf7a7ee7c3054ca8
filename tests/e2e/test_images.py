"""An engine process that serves prompts with images over the link, through a change of version.

What an API process would send is sent by the test itself: pixels at the model's size.
"""

from __future__ import annotations

import itertools

import pytest

from server.link.frames import EngineInfo, Pulse
from tests.e2e.engines import (
    change,
    serving,
    serving_from_two_hosts,
    wait_long,
    write_two_versions,
)
from tests.engine.device.test_images import MARGIN, NAME, all_requests, greedy
from tests.golden import references
from tests.processes.engine.test_process import metric

NUM_TOKENS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two versions that differ in their towers only."""

    def changed(name, values):
        return values * 2 if name.startswith("multi_modal_projector") else values

    root, reference = tmp_path_factory.mktemp("versions"), references.read(f"images/{NAME}")
    return write_two_versions(root, NAME, changed, reference, num_golden=4)


@pytest.fixture
def client(folders, tmp_path):
    sizes = {"max_num_batched_tokens": 32, "max_images_per_prompt": 2}
    with serving(folders[0], tmp_path / "engine.sock", **sizes) as client:
        yield client


def find_request(reference):
    """One with images, and the tokens that it must give: none of them is a close call."""
    for number, request in enumerate(all_requests(NAME)):
        if request.images and (reference.margins[number, :NUM_TOKENS] > MARGIN).all():
            return request, reference.greedy_ids[number, :NUM_TOKENS].tolist()
    raise AssertionError("every request has a close call")


def generate(client, request_id, request, **changes):
    client.submit(
        request_id,
        prompt_token_ids=request.prompt,
        params=request.params,
        images=request.images,
        **changes,
    )
    return client.tokens(request_id)


def test_images_are_served_by_the_tower_of_the_version(client, folders):
    assert wait_long(client, EngineInfo).max_images == 2
    request, expected = find_request(references.read(f"images/{NAME}"))
    text = greedy([5, 6, 7], [])
    found, _ = generate(client, 1, request)
    assert found[:NUM_TOKENS] == expected
    of_text, _ = generate(client, 2, text)
    commands, asked = itertools.count(1), itertools.count(3)
    for policy in ("resource", "availability"):
        change(client, next(commands), "load", version="2", path=str(folders[1]), policy=policy)
        assert generate(client, next(asked), request)[0] == found
        change(client, next(commands), "promote", version="2")
        assert generate(client, next(asked), request)[0] != found
        assert generate(client, next(asked), text)[0] == of_text
        change(client, next(commands), "rollback")
        assert generate(client, next(asked), request)[0] == found
        change(client, next(commands), "unload", version="2")

    _, last = generate(client, 99, request, pooling="mean")
    assert (last.error, last.message) == (
        "invalid_request",
        "an embedding is made of text only: send no images",
    )
    pulse = client.wait_for(Pulse)
    assert metric(pulse, "antipode_compilations_after_ready_total") == 0


@pytest.mark.parametrize("tensor_size", [1, 2], ids=["a rank each", "together"])
def test_several_hosts_read_images(start, folders, monkeypatch, tensor_size):
    flag = "--max-num-batched-tokens=32"
    with serving_from_two_hosts(start, monkeypatch, folders[0], tensor_size, flag) as client:
        client.wait_for(EngineInfo)
        request, expected = find_request(references.read(f"images/{NAME}"))
        for request_id in (1, 2):
            assert generate(client, request_id, request)[0][:NUM_TOKENS] == expected
