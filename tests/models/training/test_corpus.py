from __future__ import annotations

import pytest

from models.training.corpus import is_held_out, read_corpus


def write(library, name, text="x = 1\n"):
    path = library / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def test_the_split_goes_by_the_path_alone_and_does_not_move():
    held_out = ["asyncio/events.py", "functools.py", "xml/dom/minidom.py"]
    trained_on = ["argparse.py", "asyncio/tasks.py", "json/decoder.py", "os.py", "typing.py"]
    assert [name for name in held_out + trained_on if is_held_out(name)] == held_out


def test_one_file_in_twenty_is_held_out():
    assert 450 < sum(is_held_out(f"package/module{i}.py") for i in range(10_000)) < 550


def test_no_file_is_in_both_parts():
    corpus = read_corpus()
    assert len(corpus.training) > 10 * len(corpus.held_out) > 100
    assert not corpus.training.keys() & corpus.held_out.keys()
    assert not set(corpus.training.values()) & set(corpus.held_out.values())


def test_a_file_that_comes_or_goes_moves_no_other(tmp_path):
    names = [f"module{i}.py" for i in range(100)]
    for i, name in enumerate(names):
        write(tmp_path, name, f"x = {i}\n")
    before = read_corpus(tmp_path)
    (tmp_path / names[0]).unlink()
    write(tmp_path, "another.py", "y = 1\n")
    after = read_corpus(tmp_path)
    assert before.held_out.keys() - {names[0]} == after.held_out.keys() - {"another.py"}


def test_a_copy_of_a_held_out_file_is_not_trained_on(tmp_path):
    write(tmp_path, "functools.py", "class partial: ...\n")
    write(tmp_path, "os.py", "class partial: ...\n")
    write(tmp_path, "typing.py", "class Any: ...\n")
    corpus = read_corpus(tmp_path)
    assert list(corpus.held_out) == ["functools.py"]
    assert list(corpus.training) == ["typing.py"]


@pytest.mark.parametrize(
    "name",
    [
        "site-packages/jax/core.py",
        "test/test_os.py",
        "unittest/test/support.py",
        "encodings/cp1252.py",
        "pydoc_data/topics.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "LICENSE.txt",
    ],
)
def test_tests_tables_packages_and_build_files_are_left_out(tmp_path, name):
    write(tmp_path, name)
    write(tmp_path, "os.py", "import abc\n")
    corpus = read_corpus(tmp_path)
    assert corpus.training | corpus.held_out == {"os.py": "import abc\n"}
