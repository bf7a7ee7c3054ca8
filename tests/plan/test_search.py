"""The order of the search, with a compiler that answers at once: twice the roofline, and a bit."""

from __future__ import annotations

import pytest

from models.presets import load_preset
from server.plan import search as search_module
from server.plan.compilation import OutOfMemoryError
from server.plan.search import Target, render_found, search
from tests.plan.reports import program


class FakeCompiler:
    """Gives every decode step the same cycles, 2 ms of them; remembers what it compiled."""

    def __init__(self, refuses=lambda blueprint: False):
        self.compiled = []
        self.refuses = refuses

    def __call__(self, blueprint, names):
        (bucket,) = names
        self.compiled.append((blueprint.layout.tensor_size, bucket.num_rows))
        if self.refuses(blueprint):
            raise OutOfMemoryError("decode", "hbm", 2, 1)
        return [program(cycles=3_500_000, rows=bucket.num_rows)]


@pytest.fixture
def compiler(monkeypatch):
    def install(**options):
        fake = FakeCompiler(**options)
        monkeypatch.setattr(search_module, "compile_programs", fake)
        return fake

    return install


@pytest.fixture
def llama(ask):
    config = load_preset("llama-3.1-8b").config
    return ask(config=config, context=2048, num_blocks=0, max_num_seqs=32)


def test_without_a_target_the_most_tokens_a_second_are_found(compiler, llama):
    compiler()
    found = search(llama, Target())
    rates = [one.tokens_per_s_per_chip for one in found]
    assert len(found) == 5
    assert rates == sorted(rates, reverse=True)
    best = found[0]
    assert (best.data, best.tensor, best.max_num_seqs) == (4, 1, 32)
    assert (best.weight_dtype, best.kv_dtype) == ("int8", "fp8")


def test_a_step_time_bounds_the_step(compiler, llama):
    compiler()
    found = search(llama, Target(step_ms=5.0))
    assert found[0].meets_target
    assert all(one.predicted_ms <= 5.0 for one in found if one.meets_target)
    fastest_within = max(one.tokens_per_s_per_chip for one in found if one.meets_target)
    assert found[0].tokens_per_s_per_chip == fastest_within


def test_a_rate_is_reached_with_the_shortest_step(compiler, llama):
    compiler()
    found = search(llama, Target(tokens_per_s=5000.0))
    steps = [one.predicted_ms for one in found if one.meets_target]
    assert steps == sorted(steps)
    assert found[0].tokens_per_s_per_chip * 4 >= 5000


def test_few_candidates_are_compiled(compiler, llama):
    fake = compiler()
    search(llama, Target())
    assert len(fake.compiled) <= 10


def test_what_the_compiler_refuses_is_left_out(compiler, llama):
    compiler(refuses=lambda blueprint: blueprint.layout.tensor_size == 1)
    assert {one.tensor for one in search(llama, Target())} <= {2, 4}


def test_where_nothing_has_room_nothing_is_found(compiler, ask):
    compiler()
    config = load_preset("llama-3.3-70b").config
    assert search(ask("v5e:1x1", config, 2048, num_blocks=0), Target()) == []


def test_what_is_compiled_is_told(compiler, llama):
    compiler()
    told = []
    search(llama, Target(), lambda *step: told.append(step))
    assert told[0][0] == "tensor 1, weights int8, KV fp8, 32 sequences"
    assert [done for _, done, _ in told] == list(range(len(told)))


def test_the_table_says_what_misses_the_target(compiler, llama):
    compiler()
    text = render_found(search(llama, Target(step_ms=0.001)))
    assert "(off target)" in text
    assert "4 x tensor 1" in text
