"""Engine processes as an API process sees them: in this process or on several hosts, by the link.

What an API process would send is sent by the test itself. Knows no model.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path

from safetensors.numpy import save_file

from models.checkpoint import manifest
from models.checkpoint.manifest import Golden, GoldenPrompt
from server.config.engine_config import EngineConfig
from server.link.frames import VersionCommand, VersionResult
from server.processes.engine.build import build_model_runner
from server.versions.served_model import find_model
from tests.e2e.checkpoints import write_tokenizer
from tests.e2e.servers import KEEPING, first_free_port
from tests.e2e.test_hosts import LOOPBACK, devices
from tests.golden import random_models
from tests.processes.engine.test_process import Client, Running

WAIT_SECONDS = 240


class RealBuilder:
    def __init__(self):
        self.go_on = threading.Event()

    def __call__(self, config, listener):
        return build_model_runner(config, listener)


def write_two_versions(root, name, changed, reference, num_golden):
    """A model in the folders 1 and 2; `changed` gives the second one's values of a tensor."""
    first, second = (random_models.write(name, root / version) for version in ("1", "2"))
    tensors = random_models.weights(name).items()
    save_file(
        {tensor: changed(tensor, values) for tensor, values in tensors},
        second / "model.safetensors",
    )
    tokens = tuple(reference.greedy_ids[0, :num_golden].tolist())
    for folder in (first, second):
        write_tokenizer(folder)
        manifest.write(folder, Golden(0.1, (GoldenPrompt(tuple(reference.prompts[0]), tokens),)))
    return first, second


@contextlib.contextmanager
def serving(folder, socket, **fields):
    """A client of an engine in this process, in float32 on one device."""
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        tensor_parallel_size=1,
        data_parallel_size=1,
        max_num_seqs=4,
        max_model_len=256,
        num_blocks=64,
        block_size=16,
        compile_cache_dir="",
        watch_window_seconds=0,
        **fields,
    )
    running = Running(socket, RealBuilder(), config, find_model(config))
    client = running.start()
    yield client
    client.socket.close()
    running.process.command("stop")
    running.thread.join(WAIT_SECONDS)
    assert running.exit_code == 0


@contextlib.contextmanager
def serving_from_two_hosts(start, monkeypatch, model, tensor_size, *flags):
    """A client of the leader's engine."""
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
                "--max-model-len=256",
                *flags,
                model=model,
                **devices(1),
            )
            for index in range(2)
        ]
        group[0].wait_ready()
        client = connect(Path(folder))
        yield client
        client.socket.close()


def connect(folder):
    """A client of the engine whose socket lies in a folder of this one."""
    for path in folder.rglob("engine.sock"):
        with contextlib.suppress(ConnectionRefusedError):
            return Client(path)
    raise AssertionError("no engine listens")


def wait_long(client, kind, where=lambda frame: True):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            return client.wait_for(kind, where)
    raise AssertionError(f"no such {kind.__name__} within {WAIT_SECONDS} s")


def change(client, command_id, action, **fields):
    client.send(VersionCommand(command_id=command_id, action=action, **fields))
    result = wait_long(client, VersionResult, lambda found: found.command_id == command_id)
    assert result.error is None, result.message
