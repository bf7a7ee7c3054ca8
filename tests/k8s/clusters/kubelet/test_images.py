"""Names of images, and what stands for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.clusters.kubelet.images import find, table


@pytest.mark.parametrize(
    "name",
    [
        "registry.example/project/antipode/antipode-tpu:0.1.0",
        "registry.example:5000/x/antipode",
        "registry.example/antipode@sha256:0123abcd",
    ],
)
def test_the_servers_image_is_this_checkout_whatever_its_tag(name):
    image = find(table(None), name)
    assert image is not None
    assert image.entrypoint[-2:] == ("-m", "server")


def test_a_picker_runs_where_its_program_is_given():
    name = "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.11.0"
    assert find(table(None), name) is None
    image = find(table(Path("/programs/epp")), name)
    assert image is not None
    assert image.entrypoint == ("/programs/epp",)


def test_another_image_has_no_program():
    assert find(table(Path("/programs/epp")), "docker.io/library/nginx:1") is None
