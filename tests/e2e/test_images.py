"""An engine process that serves prompts with images over the link, through a change of version.

What an API process would send is sent by the test itself: pixels at the model's size.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
import time
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from models.checkpoint import manifest
from models.checkpoint.manifest import Golden, GoldenPrompt
from server.config.engine_config import EngineConfig
from server.link.frames import EngineInfo, Pulse, VersionCommand, VersionResult
from server.processes.engine.build import build_model_runner
from server.versions.served_model import find_model
from tests.e2e.checkpoints import write_tokenizer
from tests.e2e.servers import KEEPING, first_free_port
from tests.e2e.test_hosts import LOOPBACK, devices
from tests.engine.device.test_images import MARGIN, NAME, all_requests, greedy
from tests.golden import random_models, references
from tests.processes.engine.test_process import Client, Running, metric

WAIT_SECONDS = 240
NUM_TOKENS = 12


class RealBuilder:
    def __init__(self):
        self.go_on = threading.Event()

    def __call__(self, config, listener):
        return build_model_runner(config, listener)


def wait_long(client, kind, where=lambda frame: True):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            return client.wait_for(kind, where)
    raise AssertionError(f"no such {kind.__name__} within {WAIT_SECONDS} s")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two versions that differ in their towers only."""
    root = tmp_path_factory.mktemp("versions")
    first, second = (random_models.write(NAME, root / version) for version in ("1", "2"))
    tensors = random_models.weights(NAME)
    changed = {
        name: values * 2 if name.startswith("multi_modal_projector") else values
        for name, values in tensors.items()
    }
    save_file(changed, second / "model.safetensors")
    reference = references.read(f"images/{NAME}")
    text = GoldenPrompt(tuple(reference.prompts[0]), tuple(reference.greedy_ids[0, :4].tolist()))
    for folder in (first, second):
        write_tokenizer(folder)
        manifest.write(folder, Golden(0.1, (text,)))
    return first, second


@pytest.fixture
def client(folders, tmp_path):
    config = EngineConfig(
        model=str(folders[0]),
        dtype="float32",
        tensor_parallel_size=1,
        data_parallel_size=1,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        max_model_len=256,
        num_blocks=64,
        block_size=16,
        max_images_per_prompt=2,
        compile_cache_dir="",
        watch_window_seconds=0,
    )
    running = Running(tmp_path / "engine.sock", RealBuilder(), config, find_model(config))
    client = running.start()
    yield client
    client.socket.close()
    running.process.command("stop")
    running.thread.join(WAIT_SECONDS)
    assert running.exit_code == 0


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


def change(client, command_id, action, **fields):
    client.send(VersionCommand(command_id=command_id, action=action, **fields))
    result = wait_long(client, VersionResult, lambda found: found.command_id == command_id)
    assert result.error is None, result.message


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


def connect(folder):
    """A client of the engine whose socket lies in a folder of this one."""
    for path in folder.rglob("engine.sock"):
        with contextlib.suppress(ConnectionRefusedError):
            return Client(path)
    raise AssertionError("no engine listens")


@pytest.fixture
def short_folder():
    """A folder whose name leaves room for a socket's path, whatever the test is called."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("tensor_size", [1, 2], ids=["a rank each", "together"])
def test_several_hosts_read_images(start, folders, short_folder, monkeypatch, tensor_size):
    monkeypatch.setenv("TMPDIR", str(short_folder))
    sizes = ("--max-num-seqs=2", "--max-num-batched-tokens=32", "--max-model-len=256")
    hosts = f"{LOOPBACK.address(0)}:{first_free_port(2)},{LOOPBACK.address(1)}"
    group = [
        start(
            KEEPING,
            f"--hosts={hosts}",
            f"--host-index={index}",
            f"--tensor-parallel-size={tensor_size}",
            "--group-timeout-seconds=60",
            "--dtype=float32",
            "--num-blocks=64",
            "--block-size=16",
            *sizes,
            model=folders[0],
            **devices(1),
        )
        for index in range(2)
    ]
    group[0].wait_ready()
    client = connect(short_folder)
    client.wait_for(EngineInfo)
    request, expected = find_request(references.read(f"images/{NAME}"))
    for request_id in (1, 2):
        assert generate(client, request_id, request)[0][:NUM_TOKENS] == expected
    client.socket.close()
