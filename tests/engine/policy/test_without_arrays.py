"""Policy and its tests run where JAX is not installed: trying a change takes seconds.

`tests/test_imports.py` reads the imports of the server's modules. This runs the tests, with their
builders and fakes, in an interpreter that finds no array library.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.test_imports import ARRAY_LIBRARIES

HERE = Path(__file__).parent
# Property tests take seconds: importing them is enough.
NOT_RUN = "not Machine and not test_without_arrays"
# Plugins of pytest that would import numpy themselves.
OPTIONS = ("-p", "no:jaxtyping", "-p", "no:schemathesis", "-p", "no:cacheprovider", "-q", "-n0")
WITHOUT_ARRAYS = f"""
import sys

import pytest


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ARRAY_LIBRARIES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, NotInstalled())
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_without_arrays(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_ARRAYS, *OPTIONS, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_policy_is_tested_without_array_libraries():
    run = run_without_arrays(str(HERE), "-k", NOT_RUN)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_test_that_imports_an_array_library_fails_without_it(tmp_path):
    (tmp_path / "test_arrays.py").write_text("import numpy\n")
    run = run_without_arrays(str(tmp_path), "--rootdir", str(tmp_path))
    assert "No module named 'numpy'" in run.stdout
