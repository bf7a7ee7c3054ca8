"""Baked programs on this machine's CPU, with the real runner: compiled once, loaded ever after."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace

import jax
import pytest

from models.checkpoint.files import LocalFiles
from models.huggingface.config_file import read_config
from models.sharding import make_mesh
from server.config.engine_config import EngineConfig
from server.engine.device.executor import Executor
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.programs.baked import BakedError, BakedFolder, Compiler, program_key, spell
from server.engine.programs.blueprint.blueprint import make_blueprint
from server.engine.programs.compiler_options import CompilerOptions
from server.engine.programs.inputs.buckets import Bucket
from server.plan.compilation import Keep, compile_programs, program_names
from tests.models.checkpoints import write_checkpoint

ENGINE = EngineConfig(
    max_num_seqs=2,
    max_num_batched_tokens=32,
    max_model_len=64,
    num_blocks=16,
    tensor_parallel_size=1,
    data_parallel_size=1,
)
NUM_PROGRAMS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def blueprint(checkpoint):
    config = read_config(checkpoint)
    return make_blueprint(config, ENGINE, make_mesh(config, 1), None)


@pytest.fixture(scope="module")
def baked(blueprint, tmp_path_factory):
    """A folder with every program of the server, all of which JAX's own cache has already."""
    folder = tmp_path_factory.mktemp("baked")
    names = program_names(blueprint)
    compile_programs(blueprint, names)
    compile_programs(blueprint, names, keep=Keep(baked=BakedFolder(folder)))
    return folder


@pytest.fixture
def copy(baked, tmp_path):
    """The folder again, to be damaged."""
    for file in baked.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture
def compilations():
    """The names of what is compiled while the test runs, from the cache of the tests or not."""
    seen, is_counting = [], True

    def note(event, duration, **details):
        if is_counting and event == "/jax/core/compile/backend_compile_duration":
            seen.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    is_counting = False


def start(checkpoint, folder):
    config = replace(ENGINE, baked_dir=str(folder))
    return Executor.build(LocalFiles(checkpoint), config, lambda *_: None, LoadedVersion())


def obtain(blueprint, folder, name="make_state"):
    """The program from the folder; the compiler's counts, and a count of what is in the state."""
    compiler = Compiler(blueprint.mesh, BakedFolder(folder))
    compiled = compiler.compile(name, blueprint.programs().lower(name))
    return compiler.counts, len(jax.tree.leaves(compiled()))


def test_a_start_with_every_program_baked_compiles_nothing(checkpoint, baked, compilations, caplog):
    with caplog.at_level(logging.INFO):
        executor = start(checkpoint, baked)
    assert compilations == []
    assert f"baked programs: {NUM_PROGRAMS} loaded, 0 compiled" in caplog.text
    assert len(executor.programs) == 2


def test_a_start_without_a_folder_compiles_every_program(checkpoint, compilations, caplog):
    start(checkpoint, "")
    assert len(compilations) >= NUM_PROGRAMS
    assert "baked" not in caplog.text


def test_a_baked_program_computes_what_a_compiled_one_does(blueprint, baked):
    programs, bucket = blueprint.programs(), Bucket(2, 2, decode_only=True)
    leaves = [jax.numpy.full(leaf.shape, 0.01, leaf.dtype) for leaf in programs.abstract_leaves]
    outputs = []
    for folder in (None, BakedFolder(baked)):
        compiler = Compiler(blueprint.mesh, folder)
        state = compiler.compile("make_state", programs.lower("make_state"))()
        step = compiler.compile(bucket, programs.lower(bucket))
        output, _, _ = step(leaves, state, blueprint.sizes.empty_input(bucket), (), ())
        outputs.append(jax.device_get(output.drawn))
    assert str(outputs[0]) == str(outputs[1])


def test_a_damaged_program_is_compiled_and_said(blueprint, copy, caplog):
    (file,) = copy.glob("make_state-*.bin")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    counts, num_arrays = obtain(blueprint, copy)
    assert (counts.hits, counts.misses) == (0, 1)
    assert num_arrays == len(jax.tree.leaves(blueprint.programs().abstract_state()))
    assert "compiling program make_state instead of loading it" in caplog.text
    assert "does not have the checksum it was written with" in caplog.text


def test_a_missing_file_is_compiled_and_said(blueprint, copy, caplog):
    (file,) = copy.glob("make_state-*.bin")
    file.unlink()
    counts, _ = obtain(blueprint, copy)
    assert counts.misses == 1
    assert "cannot be read" in caplog.text


def test_a_pickle_that_is_no_program_is_compiled_and_said(blueprint, copy, caplog):
    key = program_key(blueprint.programs().lower("make_state"), blueprint.mesh)
    entry = BakedFolder(copy).find("make_state", key)
    (copy / entry.file).write_bytes(b"no pickle")
    text = (copy / "manifest.json").read_text()
    digest = hashlib.sha256(b"no pickle").hexdigest()
    (copy / "manifest.json").write_text(text.replace(entry.sha256, digest))
    counts, _ = obtain(blueprint, copy)
    assert counts.misses == 1


@pytest.mark.parametrize("field", ["jax", "jaxlib", "flags", "topology", "program", "options"])
def test_a_program_of_another_key_is_compiled_and_what_differs_is_said(
    blueprint, copy, caplog, field
):
    entries = json.loads((copy / "manifest.json").read_text())
    for entry in entries:
        entry["key"][field] = "other"
    (copy / "manifest.json").write_text(json.dumps(entries))
    counts, _ = obtain(blueprint, copy)
    assert counts.misses == 1
    assert (
        f"compiling program make_state instead of loading it: it was baked for another {field}"
        in caplog.text
    )


def test_flags_of_the_compiler_are_part_of_the_key(blueprint, monkeypatch):
    lowered = blueprint.programs().lower("make_state")
    before = program_key(lowered, blueprint.mesh)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--b --a")
    after = program_key(lowered, blueprint.mesh)
    assert before.differences(after) == ["flags"]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--a  --b")
    assert program_key(lowered, blueprint.mesh) == after


@pytest.mark.parametrize("has_folder", [False, True])
def test_a_server_compiles_with_the_options_of_the_program(blueprint, tmp_path, has_folder):
    """The compiler refuses an option that it does not know."""
    options = CompilerOptions(by_kind={"other": {"xla_no_such_option": 1}})
    folder = BakedFolder(tmp_path) if has_folder else None
    compiler = Compiler(blueprint.mesh, folder, options)
    lowered = blueprint.programs().lower("make_state")
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compiler.compile("make_state", lowered)


def test_options_of_the_program_are_part_of_the_key(blueprint):
    lowered = blueprint.programs().lower("make_state")
    without = program_key(lowered, blueprint.mesh)
    before = program_key(lowered, blueprint.mesh, {"b": 1, "a": 2})
    assert without.differences(before) == ["options"]
    assert program_key(lowered, blueprint.mesh, {"a": 2, "b": 1}) == before


@pytest.mark.parametrize("content", ["{", "[]", '[{"name": 3}]'])
def test_a_manifest_that_cannot_be_used_leaves_a_server_that_compiles(blueprint, copy, content):
    (copy / "manifest.json").write_text(content)
    counts, _ = obtain(blueprint, copy)
    assert (counts.hits, counts.misses) == (0, 1)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path, blueprint):
    folder = BakedFolder(tmp_path / "nowhere")
    key = program_key(blueprint.programs().lower("make_state"), blueprint.mesh)
    assert len(folder) == 0
    with pytest.raises(BakedError, match="it was not baked"):
        folder.find("make_state", key)


def test_baking_again_replaces_and_adds(blueprint, copy):
    before = len(BakedFolder(copy))
    compile_programs(blueprint, ["set_slot"], keep=Keep(baked=BakedFolder(copy)))
    assert len(BakedFolder(copy)) == before == NUM_PROGRAMS


def test_programs_are_spelled_with_their_sizes():
    assert spell(Bucket(64, 64, decode_only=True)) == "decode-64"
    assert spell(Bucket(2048, 64, decode_only=False)) == "mixed-2048x64"
    assert spell(Bucket(32, 8, decode_only=False, num_drafts=7)) == "verify-32x8"
    assert spell("set_slot") == "set_slot"
