from __future__ import annotations

import json
import multiprocessing
import os
import signal

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors import safe_open
from transformers import AutoTokenizer

from models.checkpoint import manifest
from models.gguf import GgufError, convert
from models.gguf.shards import write_shards
from tests.models.gguf.files import model_file

SHARD_BYTES = 20_000


@pytest.fixture
def source(tmp_path):
    return model_file().write(tmp_path / "model.gguf")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "root" / "tiny" / "1"


def read(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def leftovers(target):
    return [path.name for path in target.parent.iterdir() if path.name.endswith(".partial")]


def test_the_folder_has_everything_a_checkpoint_needs(source, target):
    assert convert(source, target, shard_bytes=1 << 20) == target
    assert sorted(path.name for path in target.iterdir()) == [
        "antipode.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    manifest.verify(target)


def test_the_weights_are_the_models(source, target):
    convert(source, target, shard_bytes=SHARD_BYTES)
    found = read(target)
    for name, original in model_file().weights.items():
        assert_array_equal(found[name], original.astype(ml_dtypes.bfloat16), name)


def test_transformers_reads_the_tokenizer_and_its_chat_template(source, target):
    convert(source, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer("the 12").tokens() == ["t", "he", "Ġ", "1", "2"]
    chat = [{"role": "user", "content": "he"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "he"
    assert tokenizer.eos_token == "<|end|>"


def test_progress_runs_from_nothing_to_one_and_no_bar_is_drawn_off_a_terminal(
    source, target, capfd
):
    seen = []
    convert(source, target, progress=lambda detail, fraction: seen.append((detail, fraction)))
    assert {detail for detail, _ in seen} == {"converting model.gguf"}
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert capfd.readouterr().err == ""


def test_a_finished_folder_is_left_alone_even_without_the_source(source, target):
    convert(source, target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    source.unlink()
    convert(source, target)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before


def test_a_strangers_folder_is_not_touched(source, target):
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a whole checkpoint"):
        convert(source, target)
    assert (target / "notes.txt").read_text() == "mine"


def test_with_replace_a_damaged_folder_is_made_again(source, target):
    convert(source, target)
    (target / "model.safetensors").write_bytes(b"torn")
    convert(source, target, replace=True)
    manifest.verify(target)


def test_a_file_that_cannot_be_imported_leaves_nothing_behind(tmp_path, target):
    model = model_file("gemma")
    with pytest.raises(GgufError, match="'gemma' is not"):
        convert(model.write(tmp_path / "m.gguf"), target)
    assert not target.exists()
    assert leftovers(target) == []


def test_a_file_that_could_not_be_served_is_refused_before_anything_is_written(tmp_path, target):
    model = model_file()
    model.metadata["llama.attention.head_count_kv"] = 3
    with pytest.raises(GgufError, match="could not serve this file: num_key_value_heads 3"):
        convert(model.write(tmp_path / "m.gguf"), target)
    assert leftovers(target) == []


def test_a_tokenizer_that_cannot_be_imported_leaves_nothing_behind(tmp_path, target):
    model = model_file()
    model.metadata["tokenizer.ggml.pre"] = "unheard-of"
    with pytest.raises(GgufError, match="unheard-of"):
        convert(model.write(tmp_path / "m.gguf"), target)
    assert leftovers(target) == []


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("at", range(1, 60, 6))
def test_a_conversion_that_stops_anywhere_is_finished_by_the_next(source, target, at):
    calls = 0

    def stop(_detail, _fraction):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed

    try:
        convert(source, target, shard_bytes=SHARD_BYTES, progress=stop)
    except Killed:
        assert not target.exists()
    convert(source, target, shard_bytes=SHARD_BYTES)
    manifest.verify(target)
    assert leftovers(target) == []
    assert not list(target.glob("*.unfinished"))
    found = read(target)
    assert_array_equal(
        found["model.norm.weight"],
        model_file().weights["model.norm.weight"].astype(ml_dtypes.bfloat16),
    )


def test_a_conversion_goes_on_with_the_shards_that_were_done(source, target, monkeypatch):
    def stop_at_half(_detail, fraction):
        if fraction > 0.5:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, shard_bytes=SHARD_BYTES, progress=stop_at_half)
    (partial,) = target.parent.glob(".1.*.partial")
    done = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    assert done
    convert(source, target, shard_bytes=SHARD_BYTES)
    assert {name: (target / name).stat().st_mtime_ns for name in done} == done


def test_another_sources_half_is_not_taken_for_its_own(tmp_path, source, target):
    def stop(_detail, fraction):
        if fraction > 0.9:
            raise Killed

    other = model_file(seed=1)
    other.metadata["llama.context_length"] = 512
    with pytest.raises(Killed):
        convert(other.write(tmp_path / "o.gguf"), target, shard_bytes=SHARD_BYTES, progress=stop)
    convert(source, target, shard_bytes=SHARD_BYTES)
    assert leftovers(target) == []
    embedding = model_file().weights["model.embed_tokens.weight"].astype(ml_dtypes.bfloat16)
    assert_array_equal(read(target)["model.embed_tokens.weight"], embedding)


@pytest.mark.parametrize("step", ["write", "rename"])
def test_stopping_around_the_last_steps_never_shows_half_a_folder(
    source, target, monkeypatch, step
):
    def stop(*_args):
        raise Killed

    with monkeypatch.context() as patch:
        owner = manifest if step == "write" else type(target)
        patch.setattr(owner, step, stop)
        with pytest.raises(Killed):
            convert(source, target)
    assert not target.exists()
    convert(source, target)
    manifest.verify(target)


def _convert_and_die(source, target):
    def die(_detail, fraction):
        if fraction > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)

    convert(source, target, shard_bytes=SHARD_BYTES, progress=die)


def _convert(source, target, builds):
    def count(_detail, fraction):
        if fraction == 1.0:
            builds.put(os.getpid())

    convert(source, target, shard_bytes=SHARD_BYTES, progress=count)


def test_after_a_kill_9_the_lock_is_free_and_the_next_run_finishes(source, target):
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_convert_and_die, args=(source, target))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not target.exists()
    assert leftovers(target)
    convert(source, target, shard_bytes=SHARD_BYTES)
    manifest.verify(target)
    assert leftovers(target) == []


def test_of_two_processes_at_once_one_does_the_work(source, target):
    spawn = multiprocessing.get_context("spawn")
    builds = spawn.Queue()
    processes = [spawn.Process(target=_convert, args=(source, target, builds)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    manifest.verify(target)
    builds.get(timeout=5)
    assert builds.empty()


def test_a_second_conversion_waits_for_the_first(source, target, monkeypatch):
    spawn = multiprocessing.get_context("spawn")
    builds = spawn.Queue()
    waiting = spawn.Process(target=_convert, args=(source, target, builds))

    def start_the_other(*args):
        waiting.start()
        write_shards(*args)

    monkeypatch.setattr("models.gguf.checkpoint_folder.write_shards", start_the_other)
    convert(source, target, shard_bytes=SHARD_BYTES)
    waiting.join(60)
    assert waiting.exitcode == 0
    assert builds.empty()


def test_the_config_on_disk_is_plain_json(source, target):
    convert(source, target)
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["rope_parameters"]["rope_theta"] == 5000.0
    assert np.isclose(config["rms_norm_eps"], 1e-5)
