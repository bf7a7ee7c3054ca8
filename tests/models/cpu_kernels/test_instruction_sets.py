"""What is true of the kernels is so with every instruction set that they know and this machine has.

A process has only one library, so each set has a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.cpu_kernels import library
from tests.models.cpu_kernels.compiled import CHOSEN, needs_compiler

TESTS = Path(__file__).parent
# And the processor's flag that says that it has it.
SETS = {"plain": "sse2", "avx2": "avx2", "avx512": "avx512bw", "avx512_bf16": "avx512_bf16"}


@needs_compiler
@pytest.mark.parametrize("name", SETS)
def test_the_kernels_of_a_set_do_what_those_of_the_best_do(name, tmp_path, monkeypatch):
    if SETS[name] not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this machine does not have {name}")
    flags = (*library._FLAGS, f"-DBEST(what)={name}::what")
    monkeypatch.setattr(library, "_FLAGS", flags)
    library.compile_library(tmp_path / "kernels.so")
    files = [str(TESTS / each) for each in ("test_product.py", "test_attention.py")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *files],
        env=os.environ | {CHOSEN: str(tmp_path / "kernels.so")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
