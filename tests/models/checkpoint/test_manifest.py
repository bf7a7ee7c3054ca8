from __future__ import annotations

import hashlib
import json

import pytest

from models.checkpoint import manifest
from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.files import LocalFiles
from models.checkpoint.version_folder import open_version


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "b.json").write_text("{}")
    manifest.write(tmp_path)
    return tmp_path


def test_a_manifest_lists_every_other_file_with_size_and_checksum(folder):
    assert json.loads((folder / "antipode.json").read_text()) == {
        "format": 1,
        "chunk_bytes": 16 << 20,
        "files": {
            "a.bin": {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()},
            "b.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        },
    }


def test_a_whole_folder_is_complete_and_verifies(folder):
    assert manifest.is_complete(folder)
    manifest.verify(folder)


def test_without_a_manifest_nothing_is_complete(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"12345")
    assert not manifest.is_complete(tmp_path)
    assert not manifest.is_complete(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 2, "files": {}}', '{"format": 1, "files": 3}']
)
def test_a_manifest_that_says_nothing_is_not_believed(folder, text):
    (folder / manifest.NAME).write_text(text)
    assert not manifest.is_complete(folder)


def test_a_missing_or_truncated_file_shows(folder):
    (folder / "a.bin").write_bytes(b"1234")
    assert not manifest.is_complete(folder)
    (folder / "a.bin").unlink()
    assert not manifest.is_complete(folder)


def test_a_flipped_byte_shows_when_contents_are_read(folder):
    (folder / "a.bin").write_bytes(b"12346")
    assert manifest.is_complete(folder)
    with pytest.raises(ValueError, match=r"a\.bin does not have the checksum"):
        manifest.verify(folder)


def test_writing_again_describes_what_is_there_now(folder):
    (folder / "a.bin").write_bytes(b"now longer")
    manifest.write(folder)
    manifest.verify(folder)


def test_another_format_is_refused(folder):
    (folder / manifest.NAME).write_text('{"format": 9}')
    with pytest.raises(ValueError, match="not a manifest of format 1"):
        manifest.read(folder)


def golden_of(content: str) -> manifest.Golden | None:
    """The golden prompts of a manifest that has `content` as these."""
    found = manifest.parse(f'{{"format": 1, "files": {{}}, "golden": {content}}}'.encode(), "here")
    return manifest.golden(found)


@pytest.mark.parametrize("tolerance", ["Infinity", "NaN", "-1"])
def test_a_tolerance_by_which_every_token_would_pass_is_refused(tolerance):
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        golden_of(f'{{"tolerance": {tolerance}, "prompts": []}}')


@pytest.mark.parametrize("token_ids", ["[]", "null", '"12"', "[1.5]", "[true]", "[-1]", '["1"]'])
@pytest.mark.parametrize("name", ["prompt_token_ids", "token_ids"])
def test_a_golden_prompt_that_asks_for_no_token_is_refused(name, token_ids):
    whole = {"prompt_token_ids": "[1]", "token_ids": "[2]"}
    fields = ", ".join(f'"{key}": {ids}' for key, ids in (whole | {name: token_ids}).items())
    with pytest.raises(ValueError, match=f"{name} of prompt 2 must be a list of one token id"):
        golden_of(
            '{"tolerance": 0, "prompts": [{"prompt_token_ids": [1], "token_ids": [2]}, '
            f"{{{fields}}}]}}"
        )


def test_an_empty_list_of_golden_prompts_is_refused():
    with pytest.raises(ValueError, match="the list of prompts is empty"):
        golden_of('{"tolerance": 0, "prompts": []}')


def test_a_manifest_that_is_nested_without_end_is_refused_in_a_sentence(folder):
    (folder / manifest.NAME).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"antipode\.json is not JSON"):
        manifest.read(folder)


def test_a_file_that_is_longer_than_any_manifest_is_not_read(folder, tmp_path):
    with (folder / manifest.NAME).open("r+b") as file:
        file.truncate(64 << 30)  # More than this machine could hold.
    with pytest.raises(ValueError, match="a manifest has at most"):
        manifest.read(folder)
    with pytest.raises(CheckpointError, match="a manifest has at most"):
        open_version(LocalFiles(folder), tmp_path / "copy")
