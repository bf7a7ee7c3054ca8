"""The compiled kernels for a test, or the reason why there are none here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from models.cpu_kernels import library

# A library for the tests in the place of the one that a server takes.
CHOSEN = "TEST_KERNELS"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ here to compile the kernels"
)


def need_kernels() -> None:
    """Compile the kernels if that is still to be done, and register them."""
    if chosen := os.environ.get(CHOSEN):
        library.register(Path(chosen))
        return
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to compile the kernels")
    try:
        library.check(library.LIBRARY)
    except library.KernelsError:
        library.compile_library()
    library.register(library.LIBRARY)
