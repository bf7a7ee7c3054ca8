from __future__ import annotations

from pathlib import Path

import pytest

import models
from server.config.engine_config import EngineConfig
from server.versions.served_model import ModelNotFoundError, ServedModel, find_model


@pytest.fixture
def root(tmp_path):
    def checkpoint(*parts):
        folder = tmp_path.joinpath(*parts)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return folder

    checkpoint("bucket", "chat", "2")
    checkpoint("bucket", "chat", "10")
    checkpoint("bucket", "chat", "stable")
    checkpoint("bucket", "plain-llama")
    (tmp_path / "bucket" / "chat" / "11").mkdir()
    (tmp_path / "bucket" / "empty").mkdir()
    return tmp_path / "bucket"


def find(model, **settings):
    return find_model(EngineConfig(model=str(model), **settings))


def test_a_folder_of_a_version_is_served_under_its_model_s_name(root):
    assert find(root / "chat" / "2") == ServedModel(root / "chat" / "2", "chat", "2")


def test_a_folder_that_is_no_version_is_served_under_its_own_name(root):
    assert find(root / "plain-llama") == ServedModel(root / "plain-llama", "plain-llama", "")
    assert find(root / "chat" / "stable").name == "stable"


def test_of_a_model_s_folder_the_highest_version_with_a_checkpoint_is_served(root):
    assert find(root / "chat") == ServedModel(root / "chat" / "10", "chat", "10")


def test_a_name_is_looked_up_under_the_model_root(root):
    assert find("chat", model_root=str(root)).path == root / "chat" / "10"


def test_a_path_wins_over_a_name(root, monkeypatch):
    monkeypatch.chdir(root)
    assert find("plain-llama", model_root="/nowhere").path == root / "plain-llama"


def test_a_trailing_slash_and_dots_do_not_change_the_name(root):
    assert find(f"{root}/chat/../chat/2/").name == "chat"


def test_the_served_name_can_be_given(root):
    found = find(root / "chat" / "2", served_model_name="assistant")
    assert (found.name, found.version) == ("assistant", "2")


def test_finding_what_was_found_changes_nothing(root):
    first = find("chat", model_root=str(root))
    assert find(first.path, served_model_name=first.name) == first


def test_a_folder_without_a_checkpoint_is_named(root):
    with pytest.raises(ModelNotFoundError, match=r"empty holds neither a config\.json nor"):
        find(root / "empty")


def test_an_unknown_name_says_what_there_is(root):
    with pytest.raises(ModelNotFoundError, match="embedded models are smollm2-135m-instruct and"):
        find("gpt-7", model_root=str(root))


def test_the_embedded_model_is_found_by_its_name():
    found = find("tiny")
    assert found == ServedModel(Path(models.__file__).parent / "tiny" / "2", "tiny", "2")
