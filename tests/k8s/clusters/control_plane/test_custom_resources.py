"""Custom resources: the charts' kinds are known, and definitions without a schema are made."""

from __future__ import annotations

import pytest
import yaml

from k8s.clusters.control_plane.admission import path_of
from k8s.clusters.control_plane.custom_resources import (
    KINDS,
    open_definition,
    open_kinds,
    published,
)
from tests.helm.charts import CASES, case_values, render


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_the_lab_knows_the_place_of_everything_that_the_charts_render(chart, case):
    for thing in render(chart, case_values(chart, case)):
        path = path_of(thing, "n")
        assert ("/namespaces/n/" in path) == ("namespace" in thing["metadata"]), path


def test_without_a_folder_every_kind_is_open(tmp_path):
    assert published(None) == published(tmp_path) == []
    assert open_kinds([]) == [*KINDS]


def test_a_published_definition_is_used_unless_it_is_older_than_gkes(tmp_path):
    names = ("httproutes.gateway.networking.k8s.io", "gcpbackendpolicies.networking.gke.io")
    for name in names:
        one = {"kind": "CustomResourceDefinition", "metadata": {"name": name}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(one))
    found = published(tmp_path)
    assert [one["metadata"]["name"] for one in found] == [names[0]]
    assert {"GCPBackendPolicy"} == {
        kind.name for kind in open_kinds(found) if kind.definition == names[1]
    }


def test_an_open_definition_takes_any_content_in_its_scope():
    [kind] = [kind for kind in KINDS if kind.name == "ComputeClass"]
    spec = open_definition(kind)["spec"]
    assert spec["scope"] == "Cluster"
    [version] = spec["versions"]
    assert version["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"]
