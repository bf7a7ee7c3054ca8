"""The files of modules for embeddings go wherever their checkpoint goes; no other nested file."""

from __future__ import annotations

import json
import shutil

import pytest

from models.checkpoint import manifest
from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.files import LocalFiles
from models.checkpoint.module_files import is_module_file, module_files
from models.checkpoint.tokenizer_files import tokenizer_sums
from models.checkpoint.verified_reading import ReadLimits
from models.checkpoint.version_folder import open_version
from server.commands.publish import _copy as copy_checkpoint

QUICK = ReadLimits(attempts=1, timeout_seconds=10)
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING = "1_Pooling/config.json"
DENSE = ["2_Dense/config.json", "2_Dense/model.safetensors"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("2_Dense", "3_Other"):
        (folder / name).mkdir()
    for name, content in {
        "config.json": {},
        "modules.json": MODULES,
        POOLING: {"pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"a": 1},
        "3_Other/config.json": {"a": 1},
        "model.safetensors": {},
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / DENSE[1]).write_bytes(b"weights")
    return folder


def copied(folder, copy):
    open_version(LocalFiles(folder), copy, QUICK)
    return sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())


def test_modules_files_are_copied_with_the_small_files(folder, tmp_path):
    assert copied(folder, tmp_path / "copy") == [POOLING, *DENSE, "config.json", "modules.json"]


def test_a_configuration_that_is_missing_is_for_the_reader_to_miss(folder, tmp_path):
    shutil.rmtree(folder / "1_Pooling")
    assert copied(folder, tmp_path / "copy") == [*DENSE, "config.json", "modules.json"]


def test_a_poolings_configuration_is_published_and_verified(folder, tmp_path):
    published = tmp_path / "1"
    copy_checkpoint(folder, published)
    manifest.write(published)
    assert copied(published, tmp_path / "copy") == sorted(
        [POOLING, *DENSE, "antipode.json", "config.json", "modules.json"]
    )
    content = (published / POOLING).read_text()
    (published / POOLING).write_text(content.replace("mean", "last"))
    with pytest.raises(CheckpointError, match=r"1_Pooling.*does not have the checksum"):
        copied(published, tmp_path / "again")


@pytest.mark.parametrize("name", [POOLING, *DENSE])
def test_a_version_with_another_module_has_other_sums(folder, name):
    before = tokenizer_sums(folder)
    (folder / name).write_text("{}")
    found = tokenizer_sums(folder)
    assert {each for each, value in found.items() if before[each] != value} == {name}


@pytest.mark.parametrize(
    "name", ["../config.json", "./config.json", "/config.json", "a/b/config.json", "a/x.json", "a"]
)
def test_no_other_nested_name_is_one(folder, tmp_path, name):
    assert not is_module_file(name)
    described = {"bytes": 2, "sha256": "0" * 64}
    written = {"format": 1, "files": {name: described}}
    (folder / manifest.NAME).write_text(json.dumps(written))
    with pytest.raises(CheckpointError):
        open_version(LocalFiles(folder), tmp_path / "copy", QUICK)


@pytest.mark.parametrize("modules", ["", "{}", "[1]", '[{"type": 1, "path": "a"}]', "[[]]"])
def test_modules_that_cannot_be_read_name_none(tmp_path, modules):
    (tmp_path / "modules.json").write_text(modules)
    assert module_files(tmp_path) == []
