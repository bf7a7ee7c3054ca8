"""Which version is served, previous, loaded, open and watched after each change."""

from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions

ONE, TWO, THREE = (LoadedVersion(str(number), number) for number in (1, 2, 3))


@pytest.fixture
def versions():
    """Version 1 is served; version 2 is on the device next to it."""
    versions = ServedVersions(ONE)
    versions.add(TWO)
    return versions


def is_open(versions, version):
    try:
        return versions.find(version.name) == version
    except AdmissionError:
        return False


class TestFind:
    def test_a_request_that_names_no_version_has_none_yet(self, versions):
        assert versions.find(None) is None

    def test_the_first_version_is_open_from_the_start(self, versions):
        assert versions.find("1") == ONE

    def test_a_loaded_version_is_found_by_everybody_once_it_is_open(self, versions):
        assert versions.find("2", may_be_closed=True) == TWO
        with pytest.raises(AdmissionError, match="version 2 of the model is not loaded here"):
            versions.find("2")
        versions.open(TWO)
        assert versions.find("2") == TWO

    def test_closing_a_version_says_whether_it_was_open(self, versions):
        assert versions.close(ONE)
        assert not versions.close(ONE)
        assert not versions.close(TWO)

    def test_a_version_that_is_not_loaded_is_found_by_nobody(self, versions):
        with pytest.raises(AdmissionError):
            versions.find("3", may_be_closed=True)

    def test_a_version_loaded_again_takes_the_name_over_and_must_be_opened_again(self, versions):
        versions.open(TWO)
        versions.remove(TWO)
        again = LoadedVersion("2", 9)
        versions.add(again)
        assert versions.loaded("2") == again
        assert not is_open(versions, again)


class TestServe:
    def test_the_version_before_becomes_the_previous_one(self, versions):
        versions.serve(TWO)
        assert (versions.served, versions.serving, versions.previous) == ("2", TWO, "1")
        versions.serve(ONE)
        assert (versions.served, versions.serving, versions.previous) == ("1", ONE, "2")

    def test_a_served_version_is_open(self, versions):
        versions.serve(TWO)
        assert is_open(versions, TWO)

    def test_only_a_version_on_the_device_can_be_served(self, versions):
        with pytest.raises(ValueError, match="3 is not on the device"):
            versions.serve(THREE)
        with pytest.raises(ValueError, match="2 is not on the device"):
            versions.serve(LoadedVersion("2", 9))
        assert versions.serving == ONE

    def test_the_version_that_is_serving_cannot_leave_the_device(self, versions):
        with pytest.raises(ValueError, match="1 is served"):
            versions.remove(ONE)
        assert versions.loaded("1") == ONE

    def test_the_previous_version_is_one_only_until_it_is_forgotten(self, versions):
        versions.serve(TWO)
        versions.forget("3")
        assert versions.previous == "1"
        versions.forget("1")
        assert versions.previous is None


class TestHold:
    def test_nothing_is_serving_while_the_served_version_keeps_its_name(self, versions):
        versions.hold()
        assert (versions.served, versions.serving) == ("1", None)
        assert not is_open(versions, ONE)

    def test_weights_may_change_places_meanwhile(self, versions):
        versions.remove(TWO)
        versions.hold()
        versions.remove(ONE)
        versions.add(THREE)
        versions.serve(THREE)
        assert (versions.serving, versions.previous) == (THREE, "1")
        assert versions.loaded("1") is None

    def test_serving_the_same_version_again_leaves_the_previous_one(self, versions):
        versions.serve(TWO)
        versions.hold()
        versions.serve(TWO)
        assert (versions.serving, versions.previous) == (TWO, "1")
        assert is_open(versions, TWO)


class TestWatch:
    def test_a_fault_of_the_watched_version_serves_the_one_before_at_once(self, versions):
        watch = versions.serve(TWO, is_watched=True)
        assert versions.fall_back(TWO) is watch
        assert (versions.served, versions.serving, versions.previous) == ("1", ONE, None)
        assert not is_open(versions, TWO)
        assert is_open(versions, ONE)

    def test_a_version_that_replaced_nobody_on_the_device_leaves_requests_waiting(self, versions):
        versions.hold()
        versions.serve(TWO, is_watched=True)
        versions.fall_back(TWO)
        assert (versions.served, versions.serving, versions.previous) == ("2", None, "1")
        assert not is_open(versions, TWO)

    @pytest.mark.parametrize("is_watched", [True, False])
    def test_other_faults_change_nothing(self, versions, is_watched):
        versions.serve(TWO, is_watched=is_watched)
        assert versions.fall_back(TWO if not is_watched else ONE) is None
        assert versions.serving == TWO

    def test_a_second_fault_changes_nothing(self, versions):
        versions.serve(TWO, is_watched=True).fault.set_result(None)
        assert versions.fall_back(TWO) is None
        assert versions.serving == TWO

    def test_the_version_that_is_serving_is_not_put_on_trial_against_itself(self, versions):
        assert versions.serve(ONE, is_watched=True) is None
        assert versions.watch is None

    def test_the_end_of_a_watch_says_whether_a_fault_came_first(self, versions):
        versions.serve(TWO, is_watched=True)
        assert not versions.unwatch()
        assert versions.fall_back(TWO) is None
        versions.serve(ONE)
        watch = versions.serve(TWO, is_watched=True)
        versions.fall_back(TWO).fault.set_result(None)
        assert versions.watch is watch
        assert versions.unwatch()
        assert not versions.unwatch()

    def test_a_change_of_the_served_version_ends_the_watch_before(self, versions):
        versions.serve(TWO, is_watched=True)
        versions.serve(ONE)
        assert versions.watch is None


def test_what_another_thread_has_read_does_not_change_under_it(versions):
    loaded, opened = versions._loaded, versions._open
    before = (dict(loaded), set(opened))
    versions.add(THREE)
    versions.serve(THREE)
    versions.remove(TWO)
    assert (loaded, opened) == before
