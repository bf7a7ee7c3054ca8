"""When Envoy Gateway counts as having taken an object."""

from __future__ import annotations

from k8s.clusters.envoy_gateway import is_true


def judged(**conditions):
    return {"conditions": [{"type": name, "status": value} for name, value in conditions.items()]}


def test_a_gateway_has_its_own_conditions():
    gateway = {"status": judged(Accepted="True", Programmed="False")}
    assert is_true(gateway, "Accepted")
    assert not is_true(gateway, "Programmed")


def test_a_route_must_be_taken_by_each_of_its_gateways():
    parents = [judged(Accepted="True"), judged(Accepted="False")]
    assert is_true({"status": {"parents": parents[:1]}}, "Accepted")
    assert not is_true({"status": {"parents": parents}}, "Accepted")


def test_a_policy_has_the_conditions_of_what_it_is_for():
    assert is_true({"status": {"ancestors": [judged(Accepted="True")]}}, "Accepted")


def test_what_nobody_judged_is_not_taken():
    assert not is_true({}, "Accepted")
