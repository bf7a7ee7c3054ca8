"""Volumes as folders: what is in them, and how they change under a reader."""

from __future__ import annotations

import pytest

from k8s.clusters.kubelet.environment import MissingReferenceError
from k8s.clusters.kubelet.volumes import BUCKETS, files_of, folder_of, token_requests, write_files

POD = {
    "metadata": {"name": "p", "namespace": "n"},
    "spec": {},
    "status": {},
}
CONTENTS = {("ConfigMap", "c"): {"a": "1", "b": "2"}, ("Secret", "s"): {"token": "t"}}


def read(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name[:2] != ".."}


def test_files_change_all_at_once_and_an_open_folder_keeps_the_old_ones(tmp_path):
    write_files(tmp_path, {"a": "1", "b": "1"})
    before = (tmp_path / "..data").resolve()
    assert write_files(tmp_path, {"a": "2", "c": "2"})
    assert read(tmp_path) == {"a": "2", "c": "2"}
    assert (tmp_path / "..data").is_symlink()
    assert (tmp_path / "a").is_symlink()
    assert not before.exists()


def test_the_same_files_are_not_written_again(tmp_path):
    write_files(tmp_path, {"a": "1"})
    before = (tmp_path / "..data").resolve()
    assert not write_files(tmp_path, {"a": "1"})
    assert (tmp_path / "..data").resolve() == before


def test_items_choose_keys_and_places(tmp_path):
    volume = {"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "d/x"}]}}
    files = files_of(volume, POD, CONTENTS, {})
    assert files == {"d/x": "1"}
    write_files(tmp_path, files)
    assert (tmp_path / "d" / "x").read_text() == "1"


def test_what_is_not_there_is_named_unless_it_is_optional():
    volume = {"name": "v", "secret": {"secretName": "none"}}
    with pytest.raises(MissingReferenceError, match="Secret none"):
        files_of(volume, POD, CONTENTS, {})
    optional = {"name": "v", "secret": {"secretName": "none", "optional": True}}
    assert files_of(optional, POD, CONTENTS, {}) == {}


def test_a_projection_joins_a_token_a_config_map_and_fields():
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}
    fields = {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}
    volume = {
        "name": "v",
        "projected": {"sources": [token, {"configMap": {"name": "c"}}, {"downwardAPI": fields}]},
    }
    pod = POD | {"spec": {"volumes": [volume]}}
    assert token_requests(pod) == {("", 3607)}
    files = files_of(volume, pod, CONTENTS, {("", 3607): "secret"})
    assert files == {"token": "secret", "a": "1", "b": "2", "namespace": "n"}


def test_a_token_that_is_not_there_yet_is_a_missing_reference():
    token = {"serviceAccountToken": {"path": "token"}}
    with pytest.raises(MissingReferenceError, match="token of volume v"):
        files_of({"name": "v", "projected": {"sources": [token]}}, POD, CONTENTS, {})


def test_a_bucket_is_its_folder_or_the_only_one_that_is_mounted(tmp_path):
    (tmp_path / "bucket" / "llama").mkdir(parents=True)
    attributes = {"bucketName": "bucket", "mountOptions": "implicit-dirs"}
    volume = {"name": "v", "csi": {"driver": BUCKETS, "volumeAttributes": attributes}}
    assert folder_of(volume, tmp_path, tmp_path) == tmp_path / "bucket"
    attributes["mountOptions"] = "implicit-dirs,only-dir=llama"
    assert folder_of(volume, tmp_path, tmp_path) == tmp_path / "bucket" / "llama"
    attributes["bucketName"] = "other"
    with pytest.raises(MissingReferenceError, match="bucket other"):
        folder_of(volume, tmp_path, tmp_path)


def test_a_kind_of_volume_that_the_kubelet_does_not_know_is_named(tmp_path):
    with pytest.raises(MissingReferenceError, match="no hostPath"):
        folder_of({"name": "v", "hostPath": {"path": "/"}}, tmp_path, tmp_path)
