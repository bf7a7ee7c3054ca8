from __future__ import annotations

import pytest

from models.presets import load_preset
from server.plan.compilation import OutOfMemoryError
from server.plan.plan import make_plan
from server.plan.suggestion import less_of, nearest_change


@pytest.fixture
def plan_request(ask):
    def make(preset, slice_name="v6e:2x2", context=2048, **settings):
        config = load_preset(preset).config
        return ask(slice_name, config, context, num_blocks=0, **settings)

    return make


def test_narrower_weights_come_before_more_chips(plan_request):
    assert nearest_change(plan_request("llama-3.3-70b")) == "--weight-dtype int8"


def test_where_no_dtype_helps_a_larger_slice_does(plan_request):
    assert nearest_change(plan_request("gemma-3-27b", "v5e:1x1")) == "--slice v5e:2x2"


def test_both_together_are_tried_before_the_next_slice(plan_request):
    assert (
        nearest_change(plan_request("llama-3.3-70b", "v5e:2x2"))
        == "--slice v5e:2x4 --weight-dtype int8"
    )


def test_too_few_chips_asked_for_are_the_first_thing_to_change(plan_request):
    asked = plan_request("llama-3.3-70b", "v6e:2x4", tensor_parallel_size=2)
    assert nearest_change(asked) == "--tensor-parallel-size 0"


def test_a_shorter_context_helps_block_tables(plan_request):
    asked = plan_request("llama-3.1-8b", context=131_072, max_num_seqs=256)
    assert nearest_change(asked) == "--context 65536"


def test_where_nothing_helps_that_is_said(plan_request):
    assert nearest_change(plan_request("llama-3.3-70b", "v7x:2x2x2", max_num_seqs=200_000)) == (
        "none of these slices and settings has room"
    )


def test_what_the_compiler_found_too_large_leaves_more_free(plan_request):
    excess = OutOfMemoryError("mixed-2048x256", "hbm", 33 << 30, int(31.24 * 2**30))
    assert less_of(plan_request("llama-3.1-8b"), excess) == "--hbm-utilization 0.83"


def test_scalar_memory_is_saved_by_fewer_sequences(plan_request):
    error = OutOfMemoryError("decode-256", "smem", 1_100_000, 1 << 20)
    assert less_of(plan_request("llama-3.1-8b", max_num_seqs=256), error) == "--max-num-seqs 128"


def test_a_plan_of_what_does_not_fit_compiles_nothing_and_says_what_is_needed(plan_request):
    report = make_plan(plan_request("llama-3.3-70b"))
    assert not report.fits
    assert report.programs == []
    memory = report.hbm_bytes_per_chip
    assert memory.total > memory.limit
    assert "GiB per chip are missing" in report.reason
    assert report.nearest_change == "--weight-dtype int8"
