from __future__ import annotations

import os

import msgspec
import pytest

from models.huggingface.config_file import parse_config
from models.presets import load_preset, preset_names
from server.plan import plan
from server.plan.plan_ci import (
    GOLDEN,
    Exempt,
    GoldenPreset,
    main,
    read_golden,
    recorded,
    request_of,
    violations,
)
from server.plan.report import Software
from tests.plan.conftest import TINY
from tests.plan.reports import POOL_BYTES, program, report

# 32 layers: 33 kernels are one per layer and one for the step.
DENSE = parse_config(TINY | {"num_hidden_layers": 32})


def checked(*programs, golden=None, **changes):
    """The violations of these programs against the golden numbers of the usual ones."""
    golden = golden or recorded(report(), None)
    return violations(report(programs=list(programs), **changes), DENSE, golden)


def test_what_was_recorded_passes():
    assert checked(program(), program("mixed-2048x64")) == []


def test_a_pool_that_is_copied_is_a_violation():
    half = POOL_BYTES // 2
    assert checked(program(pool_alias_bytes=half)) == [
        f"llama: decode-64: {half:,} of the pools' {POOL_BYTES:,} bytes are aliased"
    ]


@pytest.mark.parametrize(
    ("bucket", "tokens", "temp_bytes", "is_allowed"),
    [
        ("decode-64", 64, 50_000_000, True),
        ("decode-64", 64, 50_000_001, False),
        ("mixed-2048x64", 2048, 128_000_000, True),
        ("mixed-2048x64", 2048, 128_000_001, False),
        ("mixed-4096x64", 4096, 900_000_000, True),
    ],
)
def test_temporaries_have_a_limit_by_kind(bucket, tokens, temp_bytes, is_allowed):
    sentences = checked(program(bucket, tokens=tokens, temp_bytes=temp_bytes))
    assert (sentences == []) == is_allowed


def test_an_exemption_has_a_limit_of_its_own():
    exempt = {"mixed-2048x64": Exempt(temp_bytes=300_000_000, reason="experts sort every pair")}
    golden = msgspec.structs.replace(recorded(report(), None), exempt=exempt)
    assert checked(program("mixed-2048x64", temp_bytes=300_000_000), golden=golden) == []
    assert checked(program("mixed-2048x64", temp_bytes=300_000_001), golden=golden) != []


@pytest.mark.parametrize(("factor", "is_allowed"), [(1.05, True), (1.051, False), (0.94, False)])
def test_cycles_stay_within_five_percent_either_way(factor, is_allowed):
    assert (checked(program(cycles=int(6_000_000 * factor))) == []) == is_allowed


def test_a_change_of_software_is_said_beside_what_it_may_have_changed():
    other = Software(jax="0.11", jaxlib="0.11", libtpu="0.0.48")
    golden = msgspec.structs.replace(recorded(report(), None), software=other)
    assert checked(program(), golden=golden) == []
    sentences = checked(program(cycles=7_000_000), golden=golden)
    assert len(sentences) == 2
    assert "recorded with Software(jax='0.11'" in sentences[1]


def test_launches_and_collectives_may_not_grow():
    assert checked(program(pallas_calls=34)) == ["llama: decode-64: pallas_calls are 34, were 33"]
    assert checked(program(collectives=69)) == ["llama: decode-64: collectives are 69, were 68"]
    assert checked(program(pallas_calls=32, collectives=60)) == []


def test_a_dense_decode_launches_one_kernel_a_layer_and_two_a_step():
    golden = recorded(report(programs=[program(pallas_calls=200)]), None)
    assert checked(program(pallas_calls=34), golden=golden) == []
    assert checked(program(pallas_calls=35), golden=golden) == [
        "llama: decode-64: 35 kernel launches exceed one per layer and 2"
    ]


def test_a_preset_that_fitted_and_does_not_is_a_violation():
    sentences = checked(fits=False, reason="1.00 GiB per chip are missing")
    assert sentences == ["llama: it does not fit now: 1.00 GiB per chip are missing"]


def test_a_preset_that_is_known_not_to_fit_passes():
    golden = GoldenPreset(software=report().software, fits=False, reason="too large")
    assert checked(fits=False, reason="too large", golden=golden) == []


def test_numbers_that_were_never_recorded_are_asked_for():
    (sentence,) = violations(report(), DENSE, None)
    assert "record them with --update" in sentence


def test_recording_keeps_exemptions_and_programs_not_compiled_this_time():
    exempt = {"mixed-2048x64": Exempt(temp_bytes=1, reason="why")}
    before = msgspec.structs.replace(recorded(report(), None), exempt=exempt)
    after = recorded(report(programs=[program("decode-8")]), before)
    assert after.exempt == exempt
    assert set(after.programs) == {"decode-8", "decode-64", "mixed-2048x64"}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_asked_about_on_a_slice_that_there_is(name):
    preset = load_preset(name)
    request = request_of(preset)
    assert request.slice.name == preset.recommended.slice
    assert request.engine.max_model_len == preset.recommended.context <= preset.config.max_position


def test_golden_numbers_are_of_presets():
    assert set(read_golden(GOLDEN)) <= set(preset_names())


@pytest.fixture
def plan_ci(monkeypatch, tmp_path, capsys):
    """`make plan-ci` in a folder of its own, with reports made up by the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / GOLDEN.parent).mkdir()
    for name in (*os.environ, "TPU_ACCELERATOR_TYPE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def run(*arguments, **changes):
        made = report(model="qwen3-8b", **changes)
        monkeypatch.setattr(plan, "make_plan", lambda request, **options: made)
        code = main(["qwen3-8b", *arguments])
        return code, capsys.readouterr().err

    return run


def test_the_gate_fails_until_numbers_are_recorded_and_then_holds_to_them(plan_ci):
    assert plan_ci() == (1, "qwen3-8b: there are no golden numbers; record them with --update\n")
    assert plan_ci("--update") == (0, "")
    assert plan_ci() == (0, "")
    code, said = plan_ci(programs=[program(cycles=9_000_000)])
    assert code == 1
    assert said.startswith("qwen3-8b: decode-64: cycles are 9,000,000, were 6,000,000;")


def test_recording_does_not_excuse_a_broken_limit(plan_ci):
    code, said = plan_ci("--update", programs=[program(pool_alias_bytes=0)])
    assert code == 1
    assert "bytes are aliased" in said
