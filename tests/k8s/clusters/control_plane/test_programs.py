"""Which programs are built, and where they are kept."""

from __future__ import annotations

import pytest

from k8s.clusters.control_plane import programs


@pytest.mark.parametrize("minor", programs.MINORS)
def test_every_part_of_kubernetes_is_of_one_version(minor):
    folder = f"kubernetes-{minor}"
    version = programs.module_version(folder, "k8s.io/kubernetes")
    assert version.startswith(f"v{minor}.")
    text = (programs.MODULES / folder / "go.mod").read_text()
    replaced = [line.split()[-1] for line in text.splitlines() if "=> k8s.io/" in line]
    assert len(replaced) > 25
    assert {*replaced} == {version.replace("v1.", "v0.", 1)}


def test_two_minor_versions_can_be_had_and_both_helms():
    assert programs.DEFAULT_MINOR in programs.MINORS
    assert len(programs.MINORS) == 2
    assert programs.HELMS == ("3", "4")


@pytest.mark.parametrize("folder", sorted(path.name for path in programs.MODULES.iterdir()))
def test_every_module_has_its_checksums(folder):
    assert "h1:" in (programs.MODULES / folder / "go.sum").read_text()
    assert programs.tools(folder)


def test_programs_are_kept_outside_of_the_checkout_by_what_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTIPODE_CLUSTERS_CACHE", str(tmp_path))
    assert programs.cache_folder() == tmp_path
    assert not programs.built()
    monkeypatch.delenv("ANTIPODE_CLUSTERS_CACHE")
    assert not programs.cache_folder().is_relative_to(programs.MODULES.parents[2])


def test_without_go_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTIPODE_CLUSTERS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs Go .* docs/clusters.md"):
        programs.build()
