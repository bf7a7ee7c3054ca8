"""An engine process that serves a model with recurrent states: through a change of version, and on
several hosts.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from models.checkpoint import manifest
from models.checkpoint.manifest import Golden, GoldenPrompt
from server.config.engine_config import EngineConfig
from server.link.frames import EngineInfo, Pulse
from server.link.sampling import SamplingParams
from server.versions.served_model import find_model
from tests.e2e.checkpoints import write_tokenizer
from tests.e2e.servers import KEEPING, first_free_port
from tests.e2e.test_hosts import LOOPBACK, devices
from tests.e2e.test_images import RealBuilder, change, connect, wait_long
from tests.golden import random_models, references
from tests.processes.engine.test_process import Running, metric

NAME = "qwen3_5"
NUM_TOKENS = 24
WAIT_SECONDS = 240
MARGIN = 1e-3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two versions that differ in how fast their states forget."""
    root = tmp_path_factory.mktemp("versions")
    first, second = (random_models.write(NAME, root / version) for version in ("1", "2"))
    tensors = random_models.weights(NAME)
    changed = {
        name: values + 2 if name.endswith("A_log") else values for name, values in tensors.items()
    }
    save_file(changed, second / "model.safetensors")
    reference = references.read(NAME)
    # After a single token there is nothing to forget.
    prompt = GoldenPrompt(tuple(reference.prompts[0]), tuple(reference.greedy_ids[0, :1].tolist()))
    for folder in (first, second):
        write_tokenizer(folder)
        manifest.write(folder, Golden(0.1, (prompt,)))
    return first, second


@pytest.fixture
def client(folders, tmp_path):
    config = EngineConfig(
        model=str(folders[0]),
        dtype="float32",
        tensor_parallel_size=1,
        data_parallel_size=1,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=256,
        num_blocks=64,
        block_size=16,
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


def find_prompt():
    """A prompt of several tiles, and the tokens it must give: none of them is a close call."""
    reference = references.read(NAME)
    for number, prompt in enumerate(reference.prompts):
        if len(prompt) > 100 and (reference.margins[number, :NUM_TOKENS] > MARGIN).all():
            return prompt, reference.greedy_ids[number, :NUM_TOKENS].tolist()
    raise AssertionError("every long prompt has a close call")


def generate(client, request_id, prompt):
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    client.submit(request_id, prompt_token_ids=prompt, params=params)
    return client.tokens(request_id)[0]


def test_a_version_finds_its_own_states_only(client, folders):
    wait_long(client, EngineInfo)
    prompt, expected = find_prompt()
    commands, asked = itertools.count(1), itertools.count(1)
    assert generate(client, next(asked), prompt) == expected
    for policy in ("resource", "availability"):
        change(client, next(commands), "load", version="2", path=str(folders[1]), policy=policy)
        change(client, next(commands), "promote", version="2")
        of_second = generate(client, next(asked), prompt)
        assert of_second != expected
        assert generate(client, next(asked), prompt) == of_second
        change(client, next(commands), "rollback")
        assert generate(client, next(asked), prompt) == expected
        change(client, next(commands), "unload", version="2")
    pulse = client.wait_for(Pulse)
    assert metric(pulse, "antipode_compilations_after_ready_total") == 0


@pytest.mark.parametrize("tensor_size", [1, 2], ids=["a rank each", "together"])
def test_several_hosts_keep_states(start, folders, monkeypatch, tensor_size):
    with tempfile.TemporaryDirectory() as folder:  # Its name leaves room for a socket's path.
        monkeypatch.setenv("TMPDIR", folder)
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
                "--max-num-seqs=2",
                "--max-num-batched-tokens=64",
                "--max-model-len=256",
                model=folders[0],
                **devices(1),
            )
            for index in range(2)
        ]
        group[0].wait_ready()
        client = connect(Path(folder))
        client.wait_for(EngineInfo)
        prompt, expected = find_prompt()
        # The second finds the state that the first one kept.
        assert [generate(client, i, prompt) for i in (1, 2)] == [expected, expected]
        client.socket.close()
