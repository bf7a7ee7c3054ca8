"""Requests with several adapters and with none, together: the real engine on a real model.

The oracle is NumPy in float64 on the model with the request's adapter merged in. Fewer slots than
adapters, so that adapters come and go while requests run.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.checkpoint.files import LocalFiles
from server.engine.policy.loaded_adapter import LoadedAdapter
from tests.conftest import compilations
from tests.engine.device.test_identity import CHECKPOINT, CLOSE, Session, build, make_request
from tests.models import naive
from tests.models.adapters import merge, random_adapter, write_adapter

NAMES = ("a", "b", "c")
PROMPT = make_request(0, 40, temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def served():
    """An engine's runner and configuration, with two slots for adapters."""
    return build(max_loras=2, max_lora_rank=8)


@pytest.fixture(scope="module")
def model():
    tensors = load_file(CHECKPOINT / "model.safetensors")
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def adapters(model):
    return {name: random_adapter(model, seed=seed) for seed, name in enumerate(NAMES)}


def load(session, runner, folder, name, adapter, number):
    loaded = LoadedAdapter(name, "", number)
    store = runner._executor.adapters
    store.keep(loaded, store.read(LocalFiles(write_adapter(folder, adapter, lora_alpha=2))))
    session.engine.adapters.open(loaded)


def check(model, adapters, requests, tokens):
    config = json.loads((CHECKPOINT / "config.json").read_text())
    for i, request in enumerate(requests):
        adapter = adapters.get(request.adapter)
        tensors = model if adapter is None else merge(model, adapter, 0.5)
        found = tokens[i, 0]
        logits = naive.forward(config, tensors, request.prompt + found)[len(request.prompt) - 1 :]
        gaps = [float(row.max() - row[token]) for row, token in zip(logits, found, strict=False)]
        assert max(gaps) < CLOSE, request.adapter


def test_each_request_gets_the_tokens_of_its_own_merged_model(served, model, adapters, tmp_path):
    """All of one prompt, twice: what one request left in the prefix cache is no other's."""
    runner, config = served
    session = Session(runner, config)
    for number, name in enumerate(NAMES, start=1):
        load(session, runner, tmp_path / name, name, adapters[name], number)
    requests = [replace(PROMPT, adapter=name) for name in (*NAMES, None)]
    num_compiled = compilations.count
    check(model, adapters, requests, session.run(requests))
    check(model, adapters, requests, session.run(requests))
    assert session.num_cached_tokens == len(requests) * 32
    assert compilations.count == num_compiled


def test_an_adapter_loaded_again_finds_nothing_of_the_loading_before(
    served, model, adapters, tmp_path
):
    runner, config = served
    session = Session(runner, config)
    request = replace(PROMPT, adapter="a")
    load(session, runner, tmp_path / "1", "a", adapters["a"], 1)
    session.run([request])
    load(session, runner, tmp_path / "2", "a", adapters["b"], 2)
    check(model, {"a": adapters["b"]}, [request], session.run([request]))
    assert session.num_cached_tokens == 0
