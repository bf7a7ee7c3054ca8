"""Publishing what is there, and holding it to what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.checkpoint import manifest
from models.checkpoint.checkpoint import CheckpointError
from server.__main__ import main
from server.commands.golden_prompts import sizes_of
from server.commands.publish import PublishError, publish, verify
from tests.golden import random_models
from tests.models.checkpoints import LLAMA, write_checkpoint

TINY = Path("models/tiny/1")


@pytest.fixture
def version(tmp_path):
    return shutil.copytree(TINY, tmp_path / "tiny" / "1")


def test_a_published_version_is_the_source_and_its_golden_prompts(tmp_path, caplog):
    """The committed golden prompts come out again, of this machine's devices."""
    target = tmp_path / "tiny" / "7"
    assert publish(TINY, target) == f"published {target}, with 4 golden prompts"
    assert verify(str(target)) == f"{target} is whole, with 4 golden prompts"
    assert not caplog.messages, "nobody is to think that it failed"
    found, committed = manifest.read(target), manifest.read(TINY)
    assert found == committed
    assert {path.name for path in target.parent.iterdir()} == {"7"}
    with pytest.raises(PublishError, match="never overwritten"):
        publish(TINY, target)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("models/tiny/1", "tiny/new", "must be a whole number, and it is 'new'"),
        ("models/training", "tiny/1", "neither a .gguf file nor a folder with a config.json"),
    ],
)
def test_what_cannot_be_published_leaves_nothing_behind(tmp_path, source, target, words):
    with pytest.raises(PublishError, match=words):
        publish(Path(source), tmp_path / target)
    assert list(tmp_path.rglob("*")) == []


def test_a_damaged_version_is_found_out(version):
    weights = version / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not have the checksum"):
        verify(str(version))


def test_a_version_that_was_not_finished_is_found_out(version):
    (version / manifest.NAME).unlink()
    with pytest.raises(PublishError, match="it was not published, or publishing did not finish"):
        verify(str(version))


def test_the_command_says_it_in_one_line(version, capsys):
    assert main(["verify", str(version)]) == 0
    assert capsys.readouterr().out == f"{version} is whole, with 4 golden prompts\n"
    assert main(["publish", str(TINY), str(version)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "expected"), [("gemma3", 32), ("embeddinggemma", 128)])
def test_a_step_holds_golden_prompts_whole_where_tokens_see_later_ones(tmp_path, name, expected):
    sizes = sizes_of(random_models.write(name, tmp_path))
    assert sizes.max_num_batched_tokens == expected


def test_golden_prompts_are_no_longer_than_the_model_allows(tmp_path):
    write_checkpoint(tmp_path, LLAMA | {"max_position_embeddings": 64})
    assert sizes_of(tmp_path).max_model_len == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"\n \n", "has no golden prompt")],
)
def test_golden_prompts_that_are_none_are_refused_in_one_line(tmp_path, capsys, content, words):
    prompts = tmp_path / "prompts.txt"
    if content is not None:
        prompts.write_bytes(content)
    target = tmp_path / "tiny" / "1"
    assert main(["publish", str(TINY), str(target), "--prompts", str(prompts)]) == 1
    assert words in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("tolerance", ["inf", "nan", "-0.1"])
def test_a_tolerance_by_which_every_token_would_pass_is_refused(tmp_path, capsys, tolerance):
    with pytest.raises(SystemExit):
        main(["publish", str(TINY), str(tmp_path / "tiny" / "1"), f"--tolerance={tolerance}"])
    assert "must be a finite number of at least 0" in capsys.readouterr().err
