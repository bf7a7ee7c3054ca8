from __future__ import annotations

import pytest

from server.config.engine_config import EngineConfig
from server.slice.host_group import Group, find_group
from server.slice.reported_slice import SliceMismatchError


def group_of(environment, **settings):
    return find_group(EngineConfig(**settings), environment)


def test_a_host_alone_needs_no_variables():
    assert group_of({}) == Group()
    assert not group_of({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}).is_several


def test_gke_names_the_workers():
    group = group_of({"TPU_WORKER_HOSTNAMES": "a, b", "TPU_WORKER_ID": "1"})
    assert (group.hostnames, group.index) == (("a", "b"), 1)
    assert group.source == "TPU_WORKER_HOSTNAMES"


def test_a_leader_worker_set_names_them_by_its_leader():
    group = group_of(
        {"LWS_LEADER_ADDRESS": "pod.svc.ns", "LWS_GROUP_SIZE": "3", "LWS_WORKER_INDEX": "2"}
    )
    assert group.hostnames == ("pod.svc.ns", "pod-1.svc.ns", "pod-2.svc.ns")
    assert group.index == 2


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "nothing gives this host's index"),
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
        group_of(environment)


SECOND = {"hosts": "first:9300, second:9400", "host_index": 1}


class TestSettings:
    def test_settings_name_the_hosts_and_where_the_first_waits(self):
        group = group_of({}, **SECOND)
        assert (group.hostnames, group.index, group.port) == (("first", "second"), 1, 9300)
        assert (group.source, group.is_follower) == ("hosts", True)

    def test_without_a_port_it_is_the_groups(self):
        assert group_of({}, hosts="first,second", host_index=0, group_port=9500).port == 9500

    @pytest.mark.parametrize(
        ("host", "name"), [("[::1]:9300", "::1"), ("::1", "::1"), ("[::1]", "::1")]
    )
    def test_a_host_may_be_an_ipv6_address(self, host, name):
        assert group_of({}, hosts=f"{host},other", host_index=0).hostnames[0] == name

    def test_settings_must_agree_with_the_pods_controller(self):
        environment = {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "1"}
        with pytest.raises(SliceMismatchError, match="hosts are 2 according to hosts but 3"):
            group_of(environment, **SECOND)

    def test_a_port_must_be_one(self):
        with pytest.raises(SliceMismatchError, match="a port must be a number below 65536"):
            group_of({}, hosts="first:http,second", host_index=0)


@pytest.mark.parametrize(
    ("leader", "address"),
    [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.1", ""), ("pod.svc", "")],
)
def test_hosts_of_one_machine_are_awaited_on_it_alone(leader, address):
    assert group_of({}, hosts=f"{leader},b", host_index=0).listening_address == address
