"""The module that decides, run by Terraform itself: it has no resource, so it needs no provider."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

from tests.helm.charts import HELM, SEVERAL, find, render
from tests.k8s.terraform.configuration import ROOT, modules, texts
from tests.k8s.terraform.program import terraform

# Without these a variable is asked for.
DEFAULTS = {
    "name": "antipode",
    "residency": "any",
    "maintenance": '{start = "02:00", hours = 8}',
    "channel": "REGULAR",
    "slice": "v6e:2x2",
    "slice_chips": "devicePlugin",
    "replicas": "1",
    "capacity": "onDemand",
    "reservations": "{}",
    "chip_price": "{}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the module, so that Terraform writes nothing into the checkout."""
    folder = tmp_path_factory.mktemp("terraform") / "settings"
    shutil.copytree(ROOT / "modules" / "settings", folder)
    return folder


@pytest.fixture(scope="module")
def outputs(folder):
    """What the module says of the example's settings."""
    given = [f"-var={name}={value}" for name, value in DEFAULTS.items()]
    example = f"-var-file={ROOT / 'example.tfvars'}"
    terraform(folder, "apply", "-auto-approve", "-input=false", example, *given)
    found = json.loads(terraform(folder, "output", "-json"))
    return {name: one["value"] for name, one in found.items()}


def test_the_files_have_terraforms_format():
    terraform(ROOT, "fmt", "-check", "-diff", "-recursive")


def test_the_modules_own_tests_pass(folder):
    runs = re.findall(r'^run "', (folder / "tests/settings.tftest.hcl").read_text(), re.MULTILINE)
    assert f"{len(runs)} passed, 0 failed" in terraform(folder, "test", "-no-color")


@pytest.mark.parametrize("region", ["europe-west4", "us-east5"])
def test_a_regions_values_are_those_of_its_file(outputs, region):
    file = yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text())
    given = yaml.safe_load(outputs["helm_values"][region])
    assert given["model"] == {"bucket": file["model"]["bucket"]}
    completed = {**given, "image": file["image"], "model": file["model"]}
    assert render("antipode", completed) == render("antipode", file)


def test_the_gateways_values_name_the_regions(outputs):
    assert outputs["gateway_values"].keys() == {"europe-west4"}
    given = yaml.safe_load(outputs["gateway_values"]["europe-west4"])
    prefix = {"addressPrefix": "antipode-"}
    assert given == {"regions": ["europe-west4", "us-east5"], "residency": "any", "gke": prefix}
    assert render("antipode-gateway", given)


def test_the_slices_are_those_of_the_chart():
    text = (HELM / "antipode" / "templates" / "_machines.tpl").read_text()
    table = yaml.safe_load("\n".join(re.findall(r"^v\d\w+:[x\d]+: {.*}$", text, re.MULTILINE)))
    slices = modules(texts())["modules/settings"].blocks["locals"]["slices"]
    assert slices == {name: {"hosts": 1, **row} for name, row in table.items()}


def test_the_firewall_opens_the_ports_of_the_charts_network_policies():
    (group, *_) = find(render("antipode", SEVERAL), "NetworkPolicy", "prod-group-0")["spec"][
        "ingress"
    ]
    ports = modules(texts())["modules/settings"].blocks["output"]["group_ports"]["value"]
    assert {*re.findall(r"\d{4}", ports)} == {str(port["port"]) for port in group["ports"]}
