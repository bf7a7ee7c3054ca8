"""Which pods get requests."""

from __future__ import annotations

from k8s.clusters.gateway.endpoints import pod_names, ready_addresses, service_names


def endpoint(address, **conditions):
    return {"addresses": [address], "conditions": conditions}


def test_only_ready_endpoints_get_requests_and_their_order_is_stable():
    slices = [
        {"endpoints": [endpoint("10.1.2.2", ready=True), endpoint("10.1.1.3", ready=False)]},
        {"endpoints": [endpoint("10.1.1.2")]},
        {"endpoints": None},
    ]
    assert ready_addresses(slices) == ["10.1.1.2", "10.1.2.2"]


def test_an_endpoint_that_ends_gets_none_although_it_still_serves():
    ending = endpoint("10.1.1.2", ready=False, serving=True, terminating=True)
    assert ready_addresses([{"endpoints": [ending]}]) == []


def test_a_pod_with_a_name_under_a_service_is_found_by_it():
    """As the hosts of a group find each other, before any of them serves."""
    named = endpoint("10.1.1.2", ready=True) | {"hostname": "antipode-0"}
    slices = [{"endpoints": [named, endpoint("10.1.1.3", ready=True)]}]
    names = pod_names(slices, "antipode-0", "n")
    assert names == dict.fromkeys(("antipode-0.antipode-0", "antipode-0.antipode-0.n"), "10.1.1.2")


def test_a_service_is_found_by_its_full_name_with_and_without_a_last_dot():
    short, full, rooted = service_names("s", "n")
    assert (short, full, rooted) == ("s", "s.n.svc.cluster.local", "s.n.svc.cluster.local.")
