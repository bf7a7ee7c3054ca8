"""Which options a program is compiled with: setting over preset over chip, on TPUs only."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from models.presets import load_preset, preset_names
from server.config.compiler_options import check_options
from server.engine.programs import compiler_options as under_test
from server.engine.programs.compiler_options import choose_compiler_options, spell_options
from server.engine.programs.inputs.buckets import Bucket

V6E = SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")
V7X = SimpleNamespace(platform="tpu", device_kind="TPU7x")
V5E = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
LLAMA = load_preset("llama-3.1-8b").config
VMEM = "xla_tpu_scoped_vmem_limit_kib"
TILES = "xla_tpu_control_large_2nd_minor_layout_for_x16"

DECODE = Bucket(8, 8, decode_only=True)
PREFILL = Bucket(256, 8, decode_only=False)
VERIFY = Bucket(32, 8, decode_only=False, num_drafts=7)


@pytest.fixture
def preset_options(monkeypatch):
    """Lets a preset have the given options; every other preset has none."""

    def put(name, options):
        def load(asked):
            return replace(load_preset(asked), compiler_options=options if asked == name else {})

        monkeypatch.setattr(under_test, "load_preset", load)
        under_test._of_preset.cache_clear()

    yield put
    monkeypatch.undo()
    under_test._of_preset.cache_clear()


@pytest.mark.parametrize("name", [DECODE, PREFILL, VERIFY, "set_slot"])
def test_a_cpu_gets_no_options_whatever_is_set(name):
    assert choose_compiler_options(LLAMA, f"prefill:{VMEM}=65536", CPU).of(name) == {}


def test_every_program_of_a_v7x_keeps_its_tiles():
    options = choose_compiler_options(replace(LLAMA, hidden_size=64), "", V7X)
    for name in (DECODE, PREFILL, VERIFY, "set_slot"):
        assert options.of(name)[TILES] == 0


def test_a_v6e_gives_prefills_more_vmem_and_nothing_else():
    options = choose_compiler_options(replace(LLAMA, hidden_size=64), "", V6E)
    assert options.of(PREFILL) == {VMEM: 49152}
    assert options.of(DECODE) == options.of(VERIFY) == options.of("set_slot") == {}


def test_a_chip_without_measurements_gets_no_options():
    assert choose_compiler_options(LLAMA, "", V5E).by_kind == {}


def test_the_preset_of_the_same_shape_beats_the_chip(preset_options):
    preset_options("llama-3.1-8b", {"v6e": {"prefill": {VMEM: 81920}}})
    tuned = replace(LLAMA, eos_token_ids=(7,), max_position=4096)
    assert choose_compiler_options(tuned, "", V6E).of(PREFILL) == {VMEM: 81920}
    assert choose_compiler_options(tuned, "", V7X).of(PREFILL)[VMEM] == 49152
    other = replace(LLAMA, num_layers=31)
    assert choose_compiler_options(other, "", V6E).of(PREFILL) == {VMEM: 49152}


def test_the_setting_beats_the_preset_for_the_kinds_it_names(preset_options):
    preset_options("llama-3.1-8b", {"v6e": {k: {VMEM: 81920} for k in ("decode", "prefill")}})
    options = choose_compiler_options(LLAMA, f"prefill:{VMEM}=32768", V6E)
    assert (options.of(PREFILL), options.of(DECODE)) == ({VMEM: 32768}, {VMEM: 81920})
    assert choose_compiler_options(LLAMA, "prefill:", V6E).of(PREFILL) == {}


def test_an_unknown_option_of_a_preset_is_refused_in_one_sentence(preset_options):
    preset_options("llama-3.1-8b", {"v6e": {"prefill": {"xla_tpu_rwb_fusion": 0}}})
    with pytest.raises(ValueError, match=r"the preset llama-3\.1-8b holds 'xla_tpu_rwb_fusion'"):
        choose_compiler_options(LLAMA, "", V6E)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_holds_accepted_options_of_known_chips(name):
    for generation, by_kind in load_preset(name).compiler_options.items():
        assert generation in ("v5e", "v5p", "v6e", "v7x")
        check_options(by_kind, name)


def test_options_are_spelled_alike_in_any_order():
    assert spell_options({"b": 1, "a": 2}) == spell_options({"a": 2, "b": 1}) == "a=2 b=1"
