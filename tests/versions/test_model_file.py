from __future__ import annotations

import pytest

from server.config import EngineConfig
from server.versions.model_file import (
    ModelConfigWatcher,
    ModelFile,
    ModelFileError,
    parse_model_config,
)
from server.versions.served_model import ModelNotFoundError, follow_model_config

TEXT = 'name: tiny\npath: models/tiny\nversion: "1"\n'


def parse(text):
    return parse_model_config(text.encode())


class TestParsing:
    def test_a_version_may_be_text_or_a_number(self):
        assert parse(TEXT) == parse(TEXT.replace('"1"', "1"))
        assert parse(TEXT) == ModelFile("tiny", "models/tiny", "1")

    def test_labels_and_policy(self):
        file = parse(TEXT + 'labels: {stable: "1", canary: 2}\nswap_policy: availability\n')
        assert file.labels == {"stable": "1", "canary": "2"}
        assert file.swap_policy == "availability"
        assert file.path_of("2") == "models/tiny/2"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "Expected `object`"),
            ("name: [\n", "not YAML"),
            (TEXT[:-1], "its last line does not end"),
            (TEXT.replace('version: "1"\n', ""), "give either version or policy: latest"),
            (TEXT + "policy: latest\n", "give either version or policy: latest"),
            (TEXT.replace('"1"', "stable"), "version 'stable' is no whole number"),
            (TEXT + "labels: {canary: new}\n", "version 'new' is no whole number"),
            (TEXT + "lables: {}\n", "lables"),
            (TEXT + "swap_policy: fast\n", "swap_policy"),
            (TEXT.replace("tiny\n", "ti@ny\n", 1), "@"),
        ],
    )
    def test_what_cannot_be_followed_is_said(self, text, words):
        with pytest.raises(ModelFileError, match=words):
            parse(text)


class TestLatest:
    @pytest.fixture
    def models(self, tmp_path):
        for version in ("2", "10", "11", "stable"):
            (tmp_path / version).mkdir()
        for version in ("2", "10", "stable"):
            (tmp_path / version / "antipode.json").write_text("{}")
        return tmp_path

    def test_the_latest_version_is_the_highest_that_was_published(self, models):
        assert ModelFile("tiny", str(models), None).wanted_version() == "10"

    def test_a_folder_without_a_published_version_is_refused(self, tmp_path):
        with pytest.raises(ModelFileError, match="no published version"):
            ModelFile("tiny", str(tmp_path), None).wanted_version()
        with pytest.raises(ModelFileError, match="cannot be listed"):
            ModelFile("tiny", str(tmp_path / "nothing"), None).wanted_version()

    def test_a_new_one_is_told(self, models, tmp_path):
        watched = Watched(tmp_path / "model.yaml")
        watched.write(f"name: tiny\npath: {models}\npolicy: latest\n")
        watched.look(3)
        assert [file.wanted_version() for file in watched.files] == ["10"]
        (models / "11" / "antipode.json").write_text("{}")
        watched.look(2)
        assert [file.wanted_version() for file in watched.files] == ["11", "11"]


class Watched:
    def __init__(self, path):
        self.path, self.files, self.errors = path, [], []
        self.watcher = ModelConfigWatcher(path, self.files.append, self.errors.append)

    def write(self, text):
        self.path.write_text(text)

    def look(self, times=1):
        for _ in range(times):
            self.watcher.look()


class TestWatching:
    @pytest.fixture
    def watched(self, tmp_path):
        return Watched(tmp_path / "model.yaml")

    def test_content_that_stood_still_is_told_once(self, watched):
        watched.write(TEXT)
        watched.look()
        assert watched.files == []
        watched.look(3)
        assert watched.files == [parse(TEXT)]

    def test_content_that_is_still_changing_is_waited_for(self, watched):
        for version in range(5):
            watched.write(TEXT.replace('"1"', str(version)))
            watched.look()
        assert watched.files == []

    def test_a_wrong_file_is_told_and_then_a_right_one(self, watched):
        watched.write("name: [\n")
        watched.look(3)
        assert len(watched.errors) == 1
        assert watched.files == []
        watched.write(TEXT)
        watched.look(2)
        assert watched.files == [parse(TEXT)]

    def test_a_file_that_is_gone_for_a_moment_is_no_change(self, watched):
        watched.write(TEXT)
        watched.look(2)
        watched.path.unlink()
        watched.look()
        assert "cannot be read" in watched.errors[0]
        watched.write(TEXT)
        watched.look(2)
        assert watched.files == [parse(TEXT)]


def test_the_settings_take_model_name_and_policy_from_the_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(TEXT + "swap_policy: availability\n")
    config = follow_model_config(EngineConfig(model="other", model_config=str(path)))
    assert config.model == "models/tiny/1"
    assert config.served_model_name == "tiny"
    assert config.swap_policy == "availability"


def test_without_a_file_the_settings_stay():
    assert follow_model_config(EngineConfig(model="other")).model == "other"


def test_a_server_does_not_start_on_a_file_that_cannot_be_followed(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("name: tiny\n")
    with pytest.raises(ModelNotFoundError, match=r"model\.yaml cannot be followed"):
        follow_model_config(EngineConfig(model_config=str(path)))
