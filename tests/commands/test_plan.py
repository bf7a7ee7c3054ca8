from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from server.__main__ import main
from server.plan import slice_types
from server.plan.slice_types import check_packages, find_slice
from tests.models.checkpoints import write_checkpoint


@pytest.fixture
def environment():
    """What a plan tells libtpu, and libtpu itself, leave no trace for servers started later."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def plan(environment, capsys):
    """`antipode plan` in this process: exit code, standard output and error."""

    def run(*arguments):
        code = main(["plan", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "1"
    folder.mkdir()
    write_checkpoint(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny-9b", "--slice", "v6e:2x2"), "model 'tiny-9b' is neither a folder nor a model in"),
        (("qwen3-8b", "--slice", "v6e:9x9"), "slice 'v6e:9x9' is not known; use one of: v5e:1x1"),
        (
            ("qwen3-8b", "--slice", "v6e:2x2", "--compiler-options", "prefill:xla_tpu_fast=1"),
            "compiler_options holds 'xla_tpu_fast', which is not an accepted option",
        ),
        (
            ("qwen3-8b", "--slice", "v6e:2x2", "--tune", __file__),
            f"{__file__} exists; --tune writes a new file, so name another",
        ),
        (
            ("qwen3-8b", "--slice", "cpu", "--tune", "new.yaml"),
            "--tune needs a slice of TPUs, and --slice is cpu",
        ),
        (
            ("gemma-2-9b", "--slice", "v6e:2x2", "--context", "9000"),
            "context is 9000; gemma-2-9b allows 8192 at most",
        ),
        (
            ("qwen3-8b", "--slice", "v6e:2x4", "--tensor-parallel-size", "3"),
            "tensor_parallel_size 3 does not suit this model",
        ),
        (
            ("qwen3-8b", "--slice", "v6e:2x2", "--block-size", "48"),
            "block_size is 48; on TPU it must be one of 16, 32, 64, 128, 256",
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence_and_code_2(plan, arguments, sentence):
    code, out, error = plan(*arguments)
    assert code == 2
    assert error.startswith(f"antipode plan: {sentence}")
    assert error.count("\n") == 1
    assert out == ""


def test_what_does_not_fit_is_code_1_with_a_report(plan, tmp_path):
    file = tmp_path / "report.json"
    code, out, error = plan("llama-3.3-70b", "--slice", "v6e:2x2", "--json", file)
    assert (code, error) == (1, "")
    assert "nearest change that fits: --weight-dtype int8" in out
    report = json.loads(file.read_text())
    assert (report["fits"], report["programs"]) == (False, [])
    assert report["software"]["libtpu"]


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(slice_types, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match="needs libtpu and tokamax: install the extra tpu"
    ):
        check_packages(find_slice("v6e:2x2"))


def test_a_plan_for_the_cpu_needs_no_package(monkeypatch):
    monkeypatch.setattr(slice_types, "find_spec", lambda name: None)
    check_packages(find_slice("cpu"))


def test_a_checkpoint_is_planned_for_this_machine(checkpoint, tmp_path):
    """All but the times: a CPU has no clock to count them by."""
    file = tmp_path / "report.json"
    sizes = ("--max-num-seqs", "2", "--context", "64", "--max-num-batched-tokens", "32")
    files = ("--json", file, "--dump-hlo", tmp_path / "hlo")
    done = subprocess.run(
        [sys.executable, "-m", "server", "plan", checkpoint, "--slice", "cpu", *sizes, *files],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["fits"]
    assert [one["bucket"] for one in report["programs"]] == [
        "mixed-32x2", "decode-2", "draw", "pick-2", "set_slot", "make_state",
    ]  # fmt: skip
    for program in report["programs"][:2]:
        assert program["pool_alias_bytes"] == report["hbm_bytes_per_chip"]["kv"] > 0
    assert report["decode"] is report["prefill"] is None
    flags = dict(zip(report["serve_flags"][::2], report["serve_flags"][1::2], strict=True))
    assert flags["--model"] == str(checkpoint)
    assert flags["--max-model-len"] == "64"
    assert "[ 6/6] make_state" in done.stderr
    assert (tmp_path / "hlo" / "decode-2.hlo").exists()
