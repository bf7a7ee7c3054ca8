"""Everything on at once: what each feature promises by itself, it promises beside the others.

One engine has int8 weights, int8 KV, windowed layers, slots for adapters and requests with a
grammar. What else a server may do with a request must not change its tokens: other requests beside
it, drafts, data ranks, a resumed stream, few blocks, a change of the version.

Two programs round apart, and int8 KV makes a step of 1/127 of what is less than a rounding: so one
choice of all may differ.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.checkpoint.checkpoint import Checkpoint
from models.checkpoint.files import LocalFiles
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.sequences.sequence import LoadedVersion
from server.link.sampling import Grammar, SamplingParams
from tests.engine.device.test_draws import JSON, SCHEMA, Constrained, ask, text
from tests.engine.device.test_embeddings import normalised
from tests.engine.device.test_identity import FILTERS, PENALTIES, Request, build, make_request
from tests.engine.device.test_speculation import TellingSpeculation
from tests.models.adapters import random_adapter, write_adapter

MAX_DIFFERENT = 1
# Of a value of a normalised embedding, whose KV is rounded to 8 bits.
CLOSE = 1e-3
WINDOWED = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "use_sliding_window": True,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
RANK = 4
FIRST, SECOND = LoadedVersion(), LoadedVersion("2", 1)
EVERYTHING = {
    "weight_dtype": "int8",
    "kv_dtype": "int8",
    "max_loras": 2,
    "max_lora_rank": RANK,
    "max_num_batched_tokens": 32,
}
TOOLS = Grammar("regex", r'\{"name": "(find|open)", "arguments": \{"id": [0-9]{1,3}\}\}')
REQUESTS = [
    make_request(0, 60, temperature=0.0),
    replace(make_request(100, 33, temperature=1.0, seed=7, n=2), adapter="a"),
    replace(ask(JSON, 200, 40), adapter="b"),
    replace(ask(TOOLS, 260, 35, temperature=1.0, seed=4), adapter="a"),
    ask(JSON, 40, 31, temperature=0.9, seed=3),
    replace(make_request(300, 70, temperature=0.0, **PENALTIES), adapter="b"),
    make_request(500, 50, seed=11, **FILTERS),
    # The first one's prompt, so that only the adapter keeps their KV apart.
    replace(make_request(0, 60, temperature=0.0), adapter="a"),
    replace(make_request(0, 60, temperature=0.0), adapter="b"),
]
NOTHING = SamplingParams(max_tokens=0)
EMBEDDED = [
    Request(make_request(0, 60).prompt, NOTHING, pooling=pooling, adapter=adapter)
    for pooling in ("last", "mean")
    for adapter in (None, "a")
]
CHOICES = [(i, c) for i, request in enumerate(REQUESTS) for c in range(request.n)]


@cache
def folder(version, place):
    """A version of the tiny model as a Qwen2, of which two layers look back over a window."""
    copy = Path(place) / version
    copy.mkdir()
    source = Path("models/tiny") / version
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, copy)
    config = json.loads((source / "config.json").read_text())
    del config["attention_bias"], config["mlp_bias"]
    (copy / "config.json").write_text(json.dumps(config | WINDOWED))
    tensors = load_file(source / "model.safetensors")
    biased = tuple(f"{part}_proj.weight" for part in "qkv")
    products = [name for name in tensors if name.endswith(biased)]
    biases = {
        name.replace(".weight", ".bias"): np.zeros(len(tensors[name]), tensors[name].dtype)
        for name in products
    }
    save_file(tensors | biases, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bucket")


@pytest.fixture(scope="module")
def adapters(place):
    tensors = load_file(folder("1", place) / "model.safetensors")
    return {
        name: write_adapter(place / name, random_adapter(tensors, RANK, seed), lora_alpha=1)
        for seed, name in enumerate("ab")
    }


@pytest.fixture(scope="module")
def start(place, adapters):
    """Build an engine with everything on, and give it sessions that know both adapters."""

    def build_one(version="1", **settings):
        runner, config = build(folder(version, place), **(EVERYTHING | settings))
        sets = runner._executor.adapters
        loaded = [LoadedAdapter(name, "", number) for number, name in enumerate(adapters, 1)]
        for each in loaded:
            sets.keep(each, sets.read(LocalFiles(adapters[each.name])))

        def session(**options):
            made = Constrained(runner, config, **options)
            for each in loaded:
                made.engine.adapters.open(each)
            return made

        return SimpleNamespace(session=session, runner=runner, config=config)

    return build_one


@pytest.fixture(scope="module")
def engine(start):
    return start()


def alone_on(engine):
    """The tokens of each choice of a request that is the only one, without overlap."""
    tokens = {}
    for i, request in enumerate(REQUESTS):
        found = engine.session(overlap=False).run([request])
        tokens |= {(i, choice): found[0, choice] for choice in range(request.n)}
    return tokens


@pytest.fixture(scope="module")
def alone(engine):
    return alone_on(engine)


@pytest.fixture(scope="module")
def second(start):
    """An engine that starts with the second version."""
    return start("2")


@pytest.fixture(scope="module")
def alone_on_second(second):
    return alone_on(second)


def load_second(engine, place):
    """Load the second version beside the first."""
    copy = folder("2", place)
    source = SimpleNamespace(copy=copy, place="2", checkpoint=lambda: Checkpoint(copy))
    engine.runner._executor.weights.load(SECOND, source, lambda *_: None)


def embeddings(session, others=()):
    """Those of EMBEDDED, computed beside other requests."""
    session.run([*EMBEDDED, *others])
    parts = {}
    for event in (event for frame in session.frames for event in frame.events):
        if event.request_id < len(EMBEDDED):
            parts[event.request_id] = [np.frombuffer(part, "<f4") for part in event.pooled]
    return [normalised(np.sum(parts[i], axis=0)) for i in range(len(EMBEDDED))]


def resumed(alone, num_received):
    """The requests as they go on after so many tokens."""
    return [
        replace(request, received=[alone[i, c][:num_received] for c in range(request.n)])
        for i, request in enumerate(REQUESTS)
    ]


def check_rests(rests, alone, num_received):
    check({choice: alone[choice][:num_received] + rests[choice] for choice in CHOICES}, alone)


def check(tokens, expected):
    different = [choice for choice in CHOICES if tokens[choice] != expected[choice]]
    assert len(different) <= MAX_DIFFERENT, different


def test_grammars_hold_and_adapters_matter(engine, alone):
    for i in (2, 4):
        jsonschema.validate(json.loads(text(alone[i, 0])), SCHEMA)
    assert json.loads(text(alone[3, 0]))["name"] in ("find", "open")
    plain = [replace(request, adapter=None) for request in REQUESTS]
    without = engine.session().run(plain)
    adapted = [choice for choice in CHOICES if REQUESTS[choice[0]].adapter]
    assert sum(without[choice] != alone[choice] for choice in adapted) >= len(adapted) - 1


def test_together_each_gives_what_it_gives_alone(engine, alone):
    check(engine.session().run(REQUESTS), alone)


def test_preempted_each_goes_on_where_it_was(engine, alone):
    session = engine.session(num_blocks=14)
    check(session.run(REQUESTS), alone)
    assert session.observer.num_preempted


def test_each_finds_its_own_in_the_prefix_cache(engine, alone):
    session = engine.session()
    session.run(REQUESTS)
    check(session.run(REQUESTS), alone)
    assert session.num_cached_tokens


def test_drafts_change_no_token(start, alone, alone_on_second, place):
    engine = start(speculation="prompt_lookup", max_num_seqs=2)
    speculation = TellingSpeculation(engine.runner, engine.config, REQUESTS, alone)
    session = engine.session(speculation=speculation)
    check(session.run(REQUESTS), alone)
    drafts = [pair for step in session.observer.steps for pair in step.drafts]
    assert sum(accepted for _, accepted in drafts) > 20
    check_rests(session.run(resumed(alone, 9)), alone, 9)
    load_second(engine, place)
    session.engine.versions.add(SECOND)
    session.engine.call(lambda changes: changes.serve(SECOND))
    # Most drafts are wrong now: they are what the first version would have said.
    check(session.run(REQUESTS), alone_on_second)


def test_two_data_ranks_give_the_tokens_of_one(start, alone):
    engine = start(data_parallel_size=2)
    assert engine.runner.num_ranks == 2
    check(engine.session().run(REQUESTS), alone)
    check_rests(engine.session().run(resumed(alone, 9)), alone, 9)


@pytest.mark.parametrize("num_received", [1, 9])
def test_a_resumed_stream_gives_the_rest(engine, alone, num_received):
    check_rests(engine.session().run(resumed(alone, num_received)), alone, num_received)


def test_embeddings_are_the_same_beside_requests_for_tokens(engine):
    found = embeddings(engine.session(), REQUESTS)
    expected = [embeddings_of(engine, request) for request in EMBEDDED]
    assert np.allclose(found, expected, atol=CLOSE)
    assert not np.allclose(found[0], found[1], atol=10 * CLOSE), "the adapter changed nothing"


def embeddings_of(engine, request):
    session = engine.session()
    session.run([request])
    [event] = [event for frame in session.frames for event in frame.events]
    return normalised(np.sum([np.frombuffer(part, "<f4") for part in event.pooled], axis=0))


def test_a_change_of_the_version_meets_no_request_in_the_middle(
    second, engine, alone, alone_on_second, place
):
    expected = alone_on_second
    load_second(engine, place)
    session = engine.session()
    session.submit(REQUESTS)
    unread = session.engine.step(None)
    for _ in range(3):
        unread = session.engine.step(unread)
    session.engine.versions.add(SECOND)
    session.engine.call(lambda changes: changes.serve(SECOND))
    while unread or session.engine.load().num_unfinished:
        unread = session.engine.step(unread)
    tokens = {choice: [] for choice in CHOICES}
    for event in (event for frame in session.frames for event in frame.events):
        tokens[event.request_id, event.index] += event.token_ids
    begun = [choice for choice in CHOICES if tokens[choice] == alone[choice]]
    later = [choice for choice in CHOICES if tokens[choice] == expected[choice]]
    assert begun
    assert len(begun) + len(later) >= len(CHOICES) - MAX_DIFFERENT
    check(session.run(REQUESTS), expected)
    assert np.allclose(embeddings(session), embeddings(second.session()), atol=CLOSE)
