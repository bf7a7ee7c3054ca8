"""The table of marks names what is there, and what compiles without a mark is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

from tests.marks import MARKS, marks_of

TESTS = Path(__file__).parent
COMPILING = """
import jax.numpy as jnp

def test_what_compiles():
    assert jnp.arange(3).sum() == 3
"""


def test_every_path_of_the_table_is_there():
    paths = [path for paths in MARKS.values() for path in paths]
    assert [path for path in paths if not (TESTS / path).exists()] == []


def test_a_folder_marks_every_file_under_it():
    assert marks_of(PurePosixPath("models/decoder/test_rope.py")) == ["compiles"]
    assert marks_of(PurePosixPath("helm/test_served_pod.py")) == ["processes", "charts"]
    assert marks_of(PurePosixPath("models/test_presets.py")) == []


def test_a_test_that_compiles_without_a_mark_fails(tmp_path):
    path = tmp_path / "test_compiling.py"
    path.write_text(COMPILING)
    options = ("-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", "pyproject.toml")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "list it in tests/marks.py" in run.stdout
