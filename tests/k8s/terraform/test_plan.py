"""The whole configuration, planned and applied by Terraform with the schemas of Google's provider.

Nothing is asked of Google: Terraform's own mocks answer in its place.
"""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests.k8s.terraform.configuration import ROOT
from tests.k8s.terraform.program import terraform

PROVIDER = os.environ.get("TERRAFORM_PROVIDER")
pytestmark = pytest.mark.skipif(not PROVIDER, reason="make terraform builds the provider")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Terraform in a copy of the configuration, with the provider that was built."""
    folder = tmp_path_factory.mktemp("terraform") / "copy"
    shutil.copytree(ROOT, folder)
    override = f'dev_overrides {{ "hashicorp/google" = "{PROVIDER}" }}'
    (folder / "terraform.rc").write_text(f"provider_installation {{\n{override}\ndirect {{}}\n}}")
    terraform(folder, "get")
    return lambda *words: terraform(
        folder, *words, "-no-color", TF_CLI_CONFIG_FILE=str(folder / "terraform.rc")
    )


def test_the_provider_knows_every_argument(run):
    assert "The configuration is valid" in run("validate")


def test_regions_are_made_added_and_removed(run):
    runs = re.findall(r'^run "', (ROOT / "tests/plan.tftest.hcl").read_text(), re.MULTILINE)
    assert f"{len(runs)} passed, 0 failed" in run("test")
