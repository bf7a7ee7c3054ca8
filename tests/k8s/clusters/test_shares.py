"""What the measured shares of a picker amount to."""

from __future__ import annotations

from k8s.clusters.shares import Shares, largest, share


def test_shares_are_of_the_requests_that_were_asked():
    found = ["10.1.1.2", "10.1.2.2", "10.1.1.2", "10.1.1.2"]
    assert share(found, "10.1.2.2") == 0.25
    assert largest(found) == 0.75


def test_good_shares_have_no_faults():
    assert Shares(idle=1.0, prefix=1.0, burst=0.5).faults() == []


def test_each_share_that_is_too_small_is_a_fault():
    faults = Shares(idle=0.5, prefix=0.5, burst=0.2).faults()
    assert len(faults) == 3
    assert faults[2].startswith("a burst's requests on the pod that got fewer: 0.20")
