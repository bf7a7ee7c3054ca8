"""Adapters come and go under load: one server, one place on the device, four adapters.

Each answer must be greedy on the model with the request's adapter merged in, by NumPy in float64.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import REAL, wait_for
from tests.models import naive
from tests.models.adapters import merge, random_adapter, write_adapter
from tests.models.checkpoints import LLAMA, random_tensors

CONFIG = LLAMA | {"max_position_embeddings": 2048}
PROMPT = [72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100] * 3
CLOSE = 1e-3
FLAGS = (
    "--max-num-seqs=4",
    "--max-loras=1",
    "--max-lora-rank=4",
    "--lora-adapters=a@1,b",
    "--allow-runtime-lora-updating=true",
)


@pytest.fixture
def merged():
    """The tensors of the model by the adapter that is merged in."""
    base = random_tensors(CONFIG)
    adapters = {name: random_adapter(base, seed=seed) for seed, name in enumerate("abc")}
    return {None: base} | {name: merge(base, each) for name, each in adapters.items()}


@pytest.fixture
def model(tmp_path):
    folder = write_serving_checkpoint(tmp_path / "toy" / "1")
    base = random_tensors(CONFIG)
    for seed, name in enumerate("abc"):
        place = tmp_path / "toy" / "adapters" / name / "1"
        write_adapter(place, random_adapter(base, seed=seed))
    return folder


class Load:
    """Asks for the model and each adapter again and again, until it is left."""

    def __init__(self, server, names):
        self.answers, self._server, self._names = [], server, names
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(len(names))

    def __enter__(self):
        self._threads = [self._pool.submit(self._ask, name) for name in self._names]
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.result()

    def _ask(self, name):
        while not self._ended.is_set():
            self.answers.append((name, complete(self._server, name)))

    def rounds(self):
        """How often each name was answered, the least of all."""
        names = [name for name, _ in self.answers]
        return min(names.count(name) for name in self._names)


def body(name, max_tokens, **fields):
    model = {} if name is None else {"model": name}
    asked = {"prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0}
    return model | asked | {"return_token_ids": True, "ignore_eos": True} | fields


def complete(server, name, max_tokens=6):
    answer = server.post("/v1/completions", body(name, max_tokens))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def check(tensors, found):
    logits = naive.forward(CONFIG, tensors, PROMPT + found)[len(PROMPT) - 1 : -1]
    assert len(found) == len(logits)
    assert max(row.max() - row[token] for row, token in zip(logits, found, strict=True)) < CLOSE


def load(server, name, path):
    answer = server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
    assert answer.status_code == 200, answer.text


def metrics(server):
    return server.get("/metrics").text


def unload(server, name):
    assert server.post("/v1/unload_lora_adapter", {"lora_name": name}).status_code == 200


def tokens_of(events):
    """The tokens of a stream, line by line."""
    for line in events:
        if line.startswith("data: {"):
            yield from json.loads(line.removeprefix("data: "))["choices"][0].get("token_ids", [])


def test_adapters_come_and_go_under_load_without_a_mixed_answer_or_a_compilation(
    start, model, merged
):
    server = start(REAL, *FLAGS, model=model).wait_ready()
    models = {each["id"]: each["parent"] for each in server.get("/v1/models").json()["data"]}
    assert models == {"toy": None, "a": "toy", "b": "toy"}
    with Load(server, (None, "a", "b")) as running, httpx.Client(trust_env=False) as client:
        wait_for(lambda: running.rounds() >= 1, "a round", 120)
        load(server, "c", model.parent / "adapters" / "c" / "1")
        check(merged["c"], complete(server, "c"))
        streamed = client.stream(
            "POST", f"{server.http}/v1/completions", json=body("c", 60, stream=True), timeout=120
        )
        with streamed as stream:
            tokens = tokens_of(stream.iter_lines())
            first = next(tokens)
            unload(server, "c")
            assert server.post("/v1/completions", body("c", 1)).status_code == 404
            check(merged["c"], [first, *tokens])
        reached = running.rounds() + 1
        wait_for(lambda: running.rounds() >= reached, "another round", 120)
    for name, found in running.answers:
        check(merged[name], found)
    assert server.metric("antipode_compilations_after_ready_total") == 0
    # The engine reports at intervals, so the last request may have ended after its last report.
    wait_for(lambda: 'max_lora="1",running_lora_adapters=""' in metrics(server), "an idle report")
    assert server.metric("vllm:lora_requests_info", max_lora="1", running_lora_adapters="") > 0
