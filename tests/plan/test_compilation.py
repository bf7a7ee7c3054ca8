"""The server's own step of a small model, compiled for slices that are not there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import pytest

from server.engine.programs.baked import BakedError, BakedFolder, program_key
from server.engine.programs.compiler_options import CompilerOptions
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.programs import PickSize
from server.plan.compilation import (
    Keep,
    OutOfMemoryError,
    compile_programs,
    lower,
    out_of_memory,
    program_names,
)
from server.plan.plan import make_plan
from server.plan.plan_ci import violations
from server.plan.report import MeshSize
from server.plan.request import blueprint_for
from server.plan.result_store import ResultStore

# The compiler takes minutes where the machine is busy.
pytestmark = pytest.mark.timeout(900)

DECODE = Bucket(8, 8, decode_only=True)
PREFILL = Bucket(256, 8, decode_only=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return ResultStore(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def report(ask, results):
    return make_plan(ask(), names=[DECODE, PREFILL], keep=Keep(results=results))


@pytest.fixture(scope="module")
def steps(report):
    return {program.kind: program for program in report.programs}


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_the_kv_pool_is_written_in_place(report, steps, kind):
    assert steps[kind].pool_alias_bytes == report.hbm_bytes_per_chip.kv > 0


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_step_needs_little_more_than_its_arguments(report, steps, kind):
    assert 0 < steps[kind].temp_bytes < 20_000_000
    memory = report.hbm_bytes_per_chip
    arguments = memory.weights + memory.kv + memory.sampler
    assert arguments < steps[kind].total_bytes < arguments + 40_000_000


def test_attention_is_one_kernel_a_layer_and_one_schedule_a_step(steps):
    assert steps["decode"].pallas_calls == 3 + 1


def test_layers_communicate_on_four_chips(steps):
    """Two sums a layer, one for the embedding, and what sampling needs."""
    assert steps["decode"].collectives >= 2 * 3 + 1
    assert steps["decode"].collective_bytes > 7 * 1.5 * 8 * 256 * 2


def test_data_ranks_run_the_step_of_one_on_their_own_pools(ask):
    report = make_plan(ask(data_parallel_size=2), names=[DECODE])
    (step,) = report.programs
    assert report.mesh == MeshSize(data=2, tensor=2)
    assert step.pool_alias_bytes == report.hbm_bytes_per_chip.kv > 0
    assert step.pallas_calls == 3 + 1
    assert 0 < step.temp_bytes < 20_000_000


def test_the_compiler_gives_cycles(steps):
    assert 0 < steps["decode"].cycles < steps["prefill"].cycles
    assert steps["decode"].unknown_loops == 0


def test_predictions_exceed_the_roofline(report):
    for step in (report.decode, report.prefill):
        assert step.predicted_ms > step.roofline_ms > 0
        assert step.roofline_fraction == pytest.approx(
            step.roofline_ms / step.predicted_ms, rel=0.1
        )


def test_a_report_within_the_limits_passes_the_gate(report, ask):
    sentences = violations(report, ask().config, None)
    assert sentences == ["tiny: there are no golden numbers; record them with --update"]


def test_a_step_that_does_not_donate_its_state_fails_the_gate(ask, monkeypatch):
    monkeypatch.setattr(jax, "jit", partial(_jit_without_donation, jax.jit))
    report = make_plan(ask(), names=[DECODE])
    sentences = violations(report, ask().config, None)
    pool = report.hbm_bytes_per_chip.kv
    assert f"tiny: decode-8: 0 of the pools' {pool:,} bytes are aliased" in sentences


def _jit_without_donation(jit, *args, donate_argnums=None, **kwargs):
    return jit(*args, **kwargs)


def test_one_chip_alone_communicates_nothing(ask):
    report = make_plan(ask("v6e:1x1"), names=[DECODE])
    (decode,) = report.programs
    assert decode.pool_alias_bytes == report.hbm_bytes_per_chip.kv
    assert decode.temp_bytes < 20_000_000
    assert decode.pallas_calls == 3 + 1
    assert (decode.collectives, decode.collective_bytes) == (0, 0)


def test_what_was_compiled_once_is_not_compiled_again(ask, results, report, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    again = make_plan(ask(), names=[DECODE, PREFILL], keep=Keep(results=results))
    assert again == report


def test_a_program_is_the_same_however_often_it_is_lowered(ask):
    texts = [
        lower(blueprint, blueprint.programs(), DECODE).as_text()
        for blueprint in (blueprint_for(ask()), blueprint_for(ask()))
    ]
    assert texts[0] == texts[1]


def test_the_programs_are_all_that_the_server_has(ask):
    names = program_names(blueprint_for(ask(max_num_seqs=16)))
    decodes = [Bucket(rows, rows, decode_only=True) for rows in (8, 16)]
    mixed = [Bucket(tokens, 16, decode_only=False) for tokens in (256, 512, 1024, 2048)]
    picks = [PickSize(8), PickSize(16)]
    assert set(names) == {*decodes, *mixed, *picks, "draw", "set_slot", "make_state"}


def test_the_hlo_is_kept_where_it_is_asked_for(ask, tmp_path):
    compile_programs(blueprint_for(ask()), ["set_slot"], keep=Keep(hlo_dir=tmp_path / "hlo"))
    assert (tmp_path / "hlo" / "set_slot.hlo").read_text().startswith("HloModule")


def test_what_is_compiled_for_an_absent_slice_can_be_baked(ask, tmp_path):
    """It names the slice; that it cannot be loaded here is a reason to compile, not a failure."""
    compile_programs(blueprint_for(ask()), ["set_slot"], keep=Keep(baked=BakedFolder(tmp_path)))
    blueprint = blueprint_for(ask())
    lowered = lower(blueprint, blueprint.programs(), "set_slot")
    key, folder = program_key(lowered, blueprint.mesh), BakedFolder(tmp_path)
    entry = folder.find("set_slot", key)
    assert entry.key.topology == "tpu TPU v6 lite mesh 1x4 devices 0,1,2,3"
    assert entry.key.libtpu
    with pytest.raises(BakedError, match="cannot be loaded"):
        folder.load(entry, lowered, blueprint.mesh)


def test_options_reach_the_compiler_for_their_kind_of_step_only(ask):
    """The compiler refuses an option that it does not know."""
    options = CompilerOptions(by_kind={"other": {"xla_tpu_no_such_option": 1}})
    blueprint = replace(blueprint_for(ask()), compiler_options=options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_tpu_no_such_option"):
        compile_programs(blueprint, ["set_slot"])
    compile_programs(blueprint, [DECODE])


def test_a_result_is_kept_for_the_options_that_it_was_compiled_with(ask, tmp_path):
    keep = Keep(results=ResultStore(tmp_path))
    found = []
    for setting in ("other:", "other:xla_tpu_scoped_vmem_limit_kib=8192", "other:"):
        blueprint = blueprint_for(ask(compiler_options=setting))
        found += compile_programs(blueprint, ["set_slot"], keep=keep)
    assert len({program.program_hash for program in found}) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_programs_are_reported_as_they_are_ready(ask):
    seen = []
    names = ["make_state", "set_slot"]
    compile_programs(blueprint_for(ask()), names, jobs=2, progress=lambda *step: seen.append(step))
    assert seen == [("make_state", 1, 2), ("set_slot", 2, 2)]


def test_a_pool_beyond_the_chip_is_the_compilers_refusal(ask):
    with pytest.raises(OutOfMemoryError) as caught:
        compile_programs(blueprint_for(ask(num_blocks=300_000)), ["make_state"])
    assert (caught.value.program, caught.value.space) == ("make_state", "hbm")
    assert caught.value.used > caught.value.limit > 31 << 30


@pytest.mark.parametrize(
    ("message", "space", "used", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 37.90G of 31.25G hbm. "
            "Exceeded hbm capacity by 6.65G.",
            "hbm",
            int(37.9 * 2**30),
            int(31.25 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space smem. Used 1.04M of 1.00M smem.",
            "smem",
            int(1.04 * 2**20),
            1 << 20,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (240.00G) exceeds available HBM (31.24G).",
            "hbm",
            240 << 30,
            int(31.24 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: something new", "hbm", 0, 0),
    ],
)
def test_the_compilers_numbers_are_read(message, space, used, limit):
    error = out_of_memory("decode-8", message)
    assert (error.program, error.space, error.used, error.limit) == ("decode-8", space, used, limit)
