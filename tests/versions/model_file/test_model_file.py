"""What a model configuration file may say, and that anything else is refused in one sentence."""

from __future__ import annotations

import itertools
import os
import socket
import tracemalloc

import pytest

from server.config.engine_config import EngineConfig
from server.versions.model_file.model_file import (
    MAX_BYTES,
    ModelFile,
    ModelFileError,
    is_version,
    parse_model_config,
    read_model_file,
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
            (TEXT.replace('"1"', "2026-01-01"), "version '2026-01-01' is no whole number"),
            (TEXT.replace('"1"', "2026-13-01"), "version '2026-13-01' is no whole number"),
            (TEXT.replace('"1"', "010"), "version '010' is no whole number"),
            (TEXT.replace('"1"', "true"), "version 'true' is no whole number"),
            (TEXT.replace('"1"', "1.0"), r"version '1\.0' is no whole number"),
            (TEXT.replace('"1"', "1e400"), "version '1e400' is no whole number"),
            (TEXT.replace('"1"', "0x10"), "version '0x10' is no whole number"),
            (TEXT.replace('"1"', "9" * 50_000), r"version '9{60}\.\.\.' is no whole number"),
            (TEXT.replace('"1"', "01"), "version '01' is no whole number"),
            (TEXT.replace('"1"', "٣"), "version '٣' is no whole number"),
            (TEXT.replace('"1"', "-1"), "version '-1' is no whole number"),
            (TEXT.replace('"1"', '""'), "version '' is no whole number"),
            (TEXT.replace('"1"', "!!python/object/apply:os.getcwd []"), "holds the tag"),
            (TEXT + "labels: &a {}\n", "holds an anchor"),
            (TEXT + "labels: *a\n", "holds an alias"),
            (TEXT + "<<: {labels: {}}\n", "holds a merge"),
            (TEXT + "version: '2'\n", "key 'version' is there twice"),
            (TEXT + "? [labels]\n: {}\n", "a key is no text"),
            (TEXT + "---\n" + TEXT, "more than one YAML document"),
            (TEXT + "labels: " + "[" * 30_000 + "\n", "nested more than 8 levels"),
            (TEXT + "labels: [" + "a," * 30_000 + "]\n", "more than 1000 values"),
            (TEXT + "\0\n", "not YAML"),
            (TEXT.replace("tiny", '"\\UFFFFFFFF"', 1), "not YAML"),
            ("%YAML " + "9" * 5000 + ".1\n---\n" + TEXT, "not YAML"),
            (TEXT.replace("tiny", '"\\ud800"', 1), "printable characters"),
            (TEXT.replace("models/tiny", '"/models\\0"'), "printable characters"),
            (TEXT.replace("models/tiny", '""'), "path must not be empty"),
            (TEXT + 'labels: {"2": "1"}\n', "label '2' must be a word"),
            (TEXT + 'labels: {"a@b": "1"}\n', "label 'a@b' must be a word"),
            (TEXT + "labels: {canary: }\n", "Expected `str`, got `null`"),
            (TEXT + "labels: [canary]\n", "Expected `object`, got `array`"),
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
        with pytest.raises(ModelFileError, match=words) as error:
            parse(text)
        assert len(str(error.value)) <= 300
        assert str(error.value).isprintable()


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


class TestReading:
    def refusal(self, path):
        with pytest.raises(ModelFileError) as error:
            read_model_file(path)
        return str(error.value)

    def test_a_byte_order_mark_changes_nothing(self, tmp_path):
        path = tmp_path / "model.yaml"
        path.write_text(TEXT, encoding="utf-8-sig")
        assert parse_model_config(read_model_file(path)) == parse(TEXT)

    def test_another_encoding_is_no_yaml(self):
        with pytest.raises(ModelFileError, match="byte 0 is not UTF-8"):
            parse_model_config(TEXT.encode("utf-16"))

    def test_a_fifo_that_nobody_writes_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "model.yaml")
        assert self.refusal(tmp_path / "model.yaml") == "it is a FIFO, not a regular file"

    def test_a_device_without_an_end_is_not_read(self):
        assert self.refusal("/dev/zero") == "it is a device, not a regular file"

    def test_a_directory_and_a_socket_are_no_files(self, tmp_path):
        assert self.refusal(tmp_path) == "it is a directory, not a regular file"
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / "s"))
            assert "cannot be read" in self.refusal(tmp_path / "s")

    def test_what_is_not_there_or_leads_to_itself_says_so(self, tmp_path):
        assert "No such file" in self.refusal(tmp_path / "nothing")
        (tmp_path / "loop").symlink_to("loop")
        assert "symbolic links" in self.refusal(tmp_path / "loop")

    def test_of_a_large_file_little_is_read(self, tmp_path):
        path = tmp_path / "model.yaml"
        with path.open("wb") as file:
            file.truncate(100 << 20)
        tracemalloc.start()
        assert f"more than {MAX_BYTES} bytes" in self.refusal(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_aliases_of_aliases_take_no_memory(self):
        """A billion values in 600 bytes, were they written out."""
        names = "abcdefghijkl"
        bomb = f"a: &a [{','.join('x' * 9)}]\n" + "".join(
            f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
            for before, name in itertools.pairwise(names)
        )
        tracemalloc.start()
        with pytest.raises(ModelFileError, match="holds an anchor"):
            parse(bomb)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [("0", True), ("1", True), ("20261130", True), ("01", False), ("00", False), ("1" * 19, False)],
)
def test_a_version_is_a_number_that_is_spelled_in_one_way(name, expected):
    assert is_version(name) is expected


def test_the_settings_take_model_name_and_policy_from_the_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(TEXT + "swap_policy: availability\n")
    config, content = follow_model_config(EngineConfig(model="other", model_config=str(path)))
    assert config.model == "models/tiny/1"
    assert config.served_model_name == "tiny"
    assert config.swap_policy == "availability"
    assert content == path.read_bytes()


def test_without_a_file_the_settings_stay():
    assert follow_model_config(EngineConfig(model="other")) == (EngineConfig(model="other"), b"")


def test_a_server_does_not_start_on_a_file_that_cannot_be_followed(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("name: tiny\n")
    with pytest.raises(ModelNotFoundError, match=r"model\.yaml cannot be followed"):
        follow_model_config(EngineConfig(model_config=str(path)))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_server_does_not_start_on_what_is_no_file(tmp_path, make):
    make(tmp_path / "model.yaml")
    with pytest.raises(ModelNotFoundError, match="cannot be followed: it is a"):
        follow_model_config(EngineConfig(model_config=str(tmp_path / "model.yaml")))
