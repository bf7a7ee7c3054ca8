"""Which candidates a tuning keeps, on compilations that are made up."""

from __future__ import annotations

import pytest

from server.engine.programs.inputs.buckets import Bucket
from server.plan import tuning
from server.plan.compilation import Keep, OutOfMemoryError
from server.plan.tuning import render_trial, tune
from tests.plan.reports import program

VMEM = "xla_tpu_scoped_vmem_limit_kib"
PREFILL = Bucket(256, 8, decode_only=False)
DECODE = Bucket(8, 8, decode_only=True)


@pytest.fixture
def run(ask, monkeypatch):
    """Tunes one step, where `cost` gives cycles and bytes of temporaries for the VMEM that it has,
    in MiB; None is what the compiler takes by itself."""

    def make(cost, name=PREFILL):
        def compiled(blueprint, names, *, keep):
            options = blueprint.compiler_options.of(names[0])
            kib = options.get(VMEM)
            cycles, temporaries = cost(kib and kib >> 10)
            return [program(cycles=cycles, temp_bytes=temporaries)]

        monkeypatch.setattr(tuning, "compile_programs", compiled)
        trials = []
        return tune(ask(), [name], Keep(), trials.append), trials

    return make


def test_the_fastest_value_is_kept(run):
    cycles = {None: 1000, 48: 900, 64: 800, 80: 850, 96: 990}
    found, trials = run(lambda mib: (cycles[mib] * 10**6, 0))
    assert found == {"prefill": {VMEM: 65536}}
    assert [trial.kept for trial in trials] == [True, False, True, True, False, False]


def test_nothing_is_kept_where_nothing_helps(run):
    found, trials = run(lambda mib: (10**9, 0), DECODE)
    assert found == {"decode": {}}
    assert len(trials) > 1


def test_a_gain_within_the_noise_is_not_kept(run):
    found, _ = run(lambda mib: (10**9 - 10**6 * (mib == 64), 0))
    assert found == {"prefill": {}}


def test_a_faster_step_with_too_many_temporaries_is_not_kept(run):
    found, _ = run(lambda mib: (10**9, 0) if mib is None else (10**8, 129_000_000))
    assert found == {"prefill": {}}


def test_a_step_may_keep_the_temporaries_that_it_has_without_options(run):
    found, _ = run(lambda mib: (10**9 if mib is None else 10**8, 200_000_000))
    assert found == {"prefill": {VMEM: 49152}}


def test_a_candidate_that_does_not_fit_is_passed_over(run):
    def cost(mib):
        if mib == 48:
            raise OutOfMemoryError("mixed-256x8", "vmem", 2, 1)
        return 10**9 if mib != 64 else 10**8, 0

    found, trials = run(cost)
    assert found == {"prefill": {VMEM: 65536}}
    assert [render_trial(trial) for trial in trials if trial.predicted_ms == float("inf")] == [
        f"prefill: {VMEM}=49152: does not fit"
    ]


def test_a_trial_says_what_it_gave(run):
    _, trials = run(lambda mib: (10**9, 12_000_000))
    assert render_trial(trials[0]).startswith("prefill: none: 571.")
    assert render_trial(trials[0]).endswith("temporaries 12 MB: kept")
