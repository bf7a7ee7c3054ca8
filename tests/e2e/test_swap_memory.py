"""The peak memory of a change of versions: one more set of weights, and what reads them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.swap import TOKEN, connected, peak_bytes
from models.checkpoint import manifest
from models.checkpoint.verified_reading import CHUNK_BYTES, ReadLimits
from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import REAL

MIB = 1 << 20
# What XLA and the allocator keep; less than a second copy of the weights would take.
SLACK = 64 * MIB
READ_AHEAD = CHUNK_BYTES * ReadLimits().num_threads
WIDE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions of random weights, far larger than what a process's peak varies by."""
    first = write_serving_checkpoint(tmp_path_factory.mktemp("bucket") / "wide" / "1", **WIDE)
    second = shutil.copytree(first, first.with_name("2"))
    for folder, factor in ((first, 1), (second, 2)):
        tensors = load_file(folder / "model.safetensors")
        scaled = {name: w * np.asarray(factor, w.dtype) for name, w in tensors.items()}
        # With equal logits, the first token is the greedy one.
        scaled["model.norm.weight"] *= 0
        save_file(scaled, folder / "model.safetensors")
        prompt = manifest.GoldenPrompt((5, 6), (0,))
        manifest.write(folder, manifest.Golden(0.1, (prompt,)))
    return first


def weight_bytes(folder):
    tensors = load_file(folder / "model.safetensors")
    return sum(4 * tensor.size for tensor in tensors.values())


@pytest.mark.parametrize("policy", ["resource", "availability"])
async def test_a_swap_takes_one_more_set_of_weights_and_what_is_read_ahead(
    start, versions, tmp_path, policy
):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    admin = (f"--admin-token-file={token}", "--admin-port=0", "--admin-grpc-port=0")
    small = ("--dtype=float32", "--max-model-len=128", "--watch-window-seconds=0")
    server = start(REAL, *admin, *small, model=versions).wait_ready()
    # What the engine makes for its first request is no part of the change.
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
    before = peak_bytes(server.engine())
    async with connected(server) as client:
        await client.admin("POST", "/versions/2/load", policy=policy)
        await client.admin("POST", "/versions/2/promote")
    grown = peak_bytes(server.engine()) - before
    allowed = weight_bytes(versions) + READ_AHEAD + SLACK
    print(f"{policy}: the peak grew by {grown // MIB} MiB of {allowed // MIB} MiB")
    assert grown <= allowed
