"""Changes of versions, and what they do to sequences that wait or run."""

from __future__ import annotations

import pytest

from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.step import RowResult, StepResult
from server.engine.policy.served_versions import ServedVersions
from server.engine.version_changes import VersionChanges
from tests.engine.builders import make_ranks, make_sequence

ONE, TWO = LoadedVersion("1", 1), LoadedVersion("2", 2)


class Bench:
    """A rank that serves version 1 with version 2 next to it, and its changes."""

    def __init__(self):
        self.versions = ServedVersions(ONE)
        self.ranks = make_ranks(versions=self.versions)
        self.changes = VersionChanges(self.ranks)
        self.versions.add(TWO)

    def add(self, request_id):
        seq = make_sequence([1, 2, 3, 4, 5], request_id=request_id)
        self.ranks.add([seq], 0.0)
        return seq

    def step(self):
        batch = self.ranks.schedule(0.0)
        rows = tuple(RowResult((5,) if row.is_sampling else ()) for row in batch.rows)
        self.ranks.postprocess(batch, StepResult(rows))


@pytest.fixture
def bench():
    return Bench()


def test_a_version_stays_while_a_sequence_runs_on_it(bench):
    seq = bench.add(1)
    bench.step()
    bench.changes.serve(TWO)
    assert bench.changes.num_users(ONE) == 1
    for leave in (lambda: bench.changes.remove(ONE), lambda: bench.changes.forget("1")):
        with pytest.raises(ValueError, match="version 1 is still in use"):
            leave()
    bench.ranks.finish(seq, "abort")
    bench.changes.forget("1")
    assert (bench.versions.loaded("1"), bench.versions.previous) == (None, None)


def test_a_version_that_is_not_on_the_device_can_be_forgotten(bench):
    bench.changes.serve(TWO)
    bench.changes.remove(ONE)
    assert bench.versions.previous == "1"
    bench.changes.forget("1")
    assert bench.versions.previous is None


@pytest.mark.parametrize("change", ["serve", "hold"])
def test_waiting_sequences_look_for_blocks_of_the_version_they_will_run_on(bench, change):
    seq = bench.add(1)
    bench.ranks.schedulers[0].num_cached_tokens(seq)
    assert seq.block_digests
    if change == "serve":
        bench.changes.serve(TWO)
    else:
        bench.changes.hold()
    assert not seq.block_digests


def test_a_fault_on_trial_withdraws_what_has_no_token_and_then_reports(bench):
    watch = bench.changes.serve(TWO, is_watched=True)
    begun = bench.add(1)
    bench.step()
    new = bench.add(2)
    bench.ranks.schedule(0.0)
    assert (begun.version, new.version) == (TWO, TWO)
    seen = []
    watch.fault.add_done_callback(lambda _: seen.append((bench.versions.serving, new.version)))
    bench.changes.on_fault(TWO)
    bench.changes.on_fault(TWO)
    assert seen == [(ONE, None)]
    assert begun.version == TWO


def test_a_fault_of_a_version_that_is_not_on_trial_withdraws_nothing(bench):
    seq = bench.add(1)
    bench.ranks.schedule(0.0)
    bench.changes.on_fault(ONE)
    assert (seq.version, bench.versions.serving) == (ONE, ONE)
