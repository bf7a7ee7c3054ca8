from __future__ import annotations

import pytest

from server.slice.discovery import check_group
from server.slice.group import Group, find_group
from server.slice.sources import SliceMismatchError


def test_a_host_alone_needs_no_variables():
    assert find_group({}) == Group()
    assert not find_group({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}).is_several


def test_gke_names_the_workers():
    group = find_group({"TPU_WORKER_HOSTNAMES": "a, b", "TPU_WORKER_ID": "1"})
    assert (group.hostnames, group.index) == (("a", "b"), 1)
    assert group.source == "TPU_WORKER_HOSTNAMES"


def test_a_leader_worker_set_names_them_by_its_leader():
    group = find_group(
        {"LWS_LEADER_ADDRESS": "pod.svc.ns", "LWS_GROUP_SIZE": "3", "LWS_WORKER_INDEX": "2"}
    )
    assert group.hostnames == ("pod.svc.ns", "pod-1.svc.ns", "pod-2.svc.ns")
    assert group.index == 2


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "nothing says which of them this is"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "2"}, "must be below 2"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "first"}, "must be a number"),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0", "LWS_WORKER_INDEX": "1"},
            "index is 0 according to TPU_WORKER_ID but 1",
        ),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "LWS_LEADER_ADDRESS": "x", "LWS_GROUP_SIZE": "3"},
            "hosts are 2 according to TPU_WORKER_HOSTNAMES but 3",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(environment, words):
    with pytest.raises(SliceMismatchError, match=words):
        find_group(environment)


def test_several_hosts_are_told_that_they_are_not_served(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    with pytest.raises(SliceMismatchError, match=r"host 1 of 2 .* are not served"):
        check_group()
