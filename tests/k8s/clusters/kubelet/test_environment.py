"""Variables as a kubelet makes them from a pod."""

from __future__ import annotations

import pytest

from k8s.clusters.kubelet.environment import (
    MissingReferenceError,
    command_line,
    decoded,
    environment,
    expand,
    quantity,
    references,
)

CONTENTS = {("ConfigMap", "settings"): {"a": "1", "b": "2"}, ("Secret", "keys"): {"token": "t"}}


def pod(*variables, **container):
    container = {
        "name": "server",
        "env": list(variables),
        "resources": {"limits": {"memory": "64Gi", "cpu": "1500m"}},
    } | container
    return {
        "metadata": {
            "name": "p-0",
            "namespace": "n",
            "uid": "u",
            "labels": {"app.kubernetes.io/name": "x"},
        },
        "spec": {"nodeName": "node-1", "serviceAccountName": "sa", "containers": [container]},
        "status": {"podIP": "10.1.1.2", "podIPs": [{"ip": "10.1.1.2"}], "hostIP": "10.1.1.1"},
    }


def value_of(origin):
    made = pod({"name": "X", "valueFrom": origin})
    return environment(made, made["spec"]["containers"][0], CONTENTS).get("X")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p-0"),
        ("metadata.namespace", "n"),
        ("metadata.uid", "u"),
        ("metadata.labels['app.kubernetes.io/name']", "x"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.1.1.2"),
        ("status.hostIP", "10.1.1.1"),
    ],
)
def test_a_field_of_the_pod_becomes_a_variable(path, value):
    assert value_of({"fieldRef": {"fieldPath": path}}) == value


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.memory", "1", str(64 << 30)),
        ("limits.memory", "1Gi", "64"),
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "1", "0"),
    ],
)
def test_a_resource_is_counted_in_its_divisor_and_rounded_up(resource, divisor, value):
    assert value_of({"resourceFieldRef": {"resource": resource, "divisor": divisor}}) == value


def test_keys_of_config_maps_and_secrets_become_variables():
    assert value_of({"configMapKeyRef": {"name": "settings", "key": "b"}}) == "2"
    assert value_of({"secretKeyRef": {"name": "keys", "key": "token"}}) == "t"


def test_a_missing_key_is_named_unless_it_is_optional():
    missing = {"name": "settings", "key": "c"}
    assert value_of({"configMapKeyRef": missing | {"optional": True}}) is None
    with pytest.raises(MissingReferenceError, match="key c of ConfigMap settings"):
        value_of({"configMapKeyRef": missing})


def test_an_unknown_field_is_named():
    with pytest.raises(MissingReferenceError, match="fieldRef status"):
        value_of({"fieldRef": {"fieldPath": "status.phase"}})


def test_all_keys_of_a_config_map_come_with_their_prefix_and_single_variables_win():
    made = pod(
        {"name": "P_b", "value": "own"},
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "settings"}}],
    )
    found = environment(made, made["spec"]["containers"][0], CONTENTS)
    assert found == {"P_a": "1", "P_b": "own"}


def test_variables_may_refer_to_earlier_ones():
    made = pod(
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(C)-$$(A)"},
        {"name": "C", "value": "3"},
    )
    found = environment(made, made["spec"]["containers"][0], {})
    assert found["B"] == "1-$(C)-$(A)"


def test_arguments_follow_the_command_or_the_image_and_know_the_variables():
    assert command_line({"args": ["--x=$(A)"]}, ["serve"], {"A": "1"}) == ["serve", "--x=1"]
    assert command_line({"command": ["sh"], "args": ["-c"]}, ["serve"], {}) == ["sh", "-c"]
    assert expand("$(missing)", {}) == "$(missing)"


def test_everything_that_a_pod_refers_to_is_found():
    made = pod(
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "two", "key": "k"}}},
        envFrom=[{"secretRef": {"name": "three"}}],
    )
    made["spec"]["volumes"] = [
        {"name": "a", "configMap": {"name": "four"}},
        {"name": "b", "secret": {"secretName": "five"}},
        {"name": "c", "projected": {"sources": [{"configMap": {"name": "six"}}]}},
        {"name": "d", "emptyDir": {}},
    ]
    assert references(made) == {
        ("ConfigMap", "one"),
        ("Secret", "two"),
        ("Secret", "three"),
        ("ConfigMap", "four"),
        ("Secret", "five"),
        ("ConfigMap", "six"),
    }


def test_secrets_are_decoded_and_empty_config_maps_are_empty():
    assert decoded("Secret", {"data": {"a": "eA=="}}) == {"a": "x"}
    assert decoded("ConfigMap", {"data": None}) == {}


def test_a_quantity_with_an_unknown_unit_is_refused():
    assert quantity("2k") == 2000
    with pytest.raises(ValueError, match="'2X' is no quantity"):
        quantity("2X")
