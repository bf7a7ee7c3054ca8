from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from server.__main__ import main


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
        timeout=60,
    )


def test_version_prints_the_release(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"antipode {version('antipode-server')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_explains_and_succeeds(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: antipode" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "antipode: the following arguments are required: COMMAND"),
        (["fly"], "antipode: argument COMMAND: invalid choice: 'fly'"),
        (["serve", "--max-seqs", "3"], "antipode: unrecognized arguments: --max-seqs 3"),
        (["serve", "--max-num-seq", "3"], "antipode: unrecognized arguments: --max-num-seq 3"),
        (["serve", "--model"], "antipode serve: argument --model: expected one argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_a_wrong_value_is_one_line_and_code_2():
    done = run("serve", "--dtype", "float8")
    assert done.returncode == 2
    assert done.stderr == (
        "antipode serve: --dtype is 'float8'; it must be one of auto, float32, bfloat16\n"
    )


def test_a_wrong_variable_is_one_line_and_code_2():
    done = run("serve", ANTIPODE_MAX_NUM_SEQS="0")
    assert done.returncode == 2
    assert done.stderr == (
        "antipode serve: ANTIPODE_MAX_NUM_SEQS is '0'; it must be an integer of at least 1\n"
    )


def test_an_unknown_model_is_one_line_and_code_1():
    done = run("serve", "--model", "gpt-7")
    assert done.returncode == 1
    assert done.stderr.startswith("antipode serve: model 'gpt-7' is neither a folder nor")
    assert done.stderr.count("\n") == 1


def test_the_main_process_needs_no_jax():
    code = "import sys, server.processes.supervisor, server.__main__; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
