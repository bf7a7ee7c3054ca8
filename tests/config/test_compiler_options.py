"""What the setting `compiler_options` may hold, and the sentences that refuse the rest."""

from __future__ import annotations

import pytest

from server.config.compiler_options import (
    ALLOWED_OPTIONS,
    read_compiler_options,
    spell_compiler_options,
)
from server.config.setting import ConfigError
from server.config.sources import load_config

VMEM = "xla_tpu_scoped_vmem_limit_kib"
TILES = "xla_tpu_control_large_2nd_minor_layout_for_x16"


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("", {}),
        (" , ", {}),
        (f"prefill:{VMEM}=65536", {"prefill": {VMEM: 65536}}),
        (f" prefill : {VMEM} = 65536 ", {"prefill": {VMEM: 65536}}),
        (f"prefill:{VMEM}=65536,prefill:{TILES}=0", {"prefill": {VMEM: 65536, TILES: 0}}),
        (f"decode:,other:{TILES}=0", {"decode": {}, "other": {TILES: 0}}),
    ],
)
def test_options_are_named_by_kind_of_step(setting, options):
    assert read_compiler_options(setting) == options


def test_what_is_spelled_is_read_again():
    options = {"decode": {}, "prefill": {VMEM: 65536, TILES: 0}}
    assert read_compiler_options(spell_compiler_options(options)) == options


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (f"{VMEM}=65536", "write KIND:OPTION=VALUE"),
        (f"verify:{VMEM}=65536", "a kind is one of decode, prefill, other"),
        ("prefill:xla_tpu_scoped_vmem_limit=65536", f"did you mean {VMEM}?"),
        ("prefill:xla_tpu_overlap_compute_collective_tc=1", "is not an accepted option"),
        (f"prefill:{VMEM}=much", f"{VMEM} must be an integer from 8192 to 131072"),
        (f"prefill:{VMEM}=", "must be an integer"),
        (f"prefill:{VMEM}=1", "must be an integer from 8192"),
        (f"prefill:{VMEM}=-1", "must be an integer"),
        (f"prefill:{VMEM}=" + "9" * 5000, "must be an integer"),
        (f"decode:{TILES}=2", f"{TILES} must be an integer from 0 to 1"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_sentence(setting, sentence):
    with pytest.raises(ConfigError) as caught:
        read_compiler_options(setting)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_refuses_an_unknown_option():
    with pytest.raises(ConfigError, match="is not an accepted option"):
        load_config({"compiler_options": "decode:xla_tpu_use_tree_reduce=1"}, {})


def test_options_that_are_known_to_compute_wrongly_are_not_accepted():
    assert not {option for option in ALLOWED_OPTIONS if "collective" in option}
