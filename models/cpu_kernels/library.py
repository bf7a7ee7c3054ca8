"""The library of kernels: compiles it, and registers it with JAX if it is the right one.

A library ends with a line that says for which jaxlib and of which sources it was built, and its
checksum. It is loaded only if the line is what it must be here, so neither another's library nor a
damaged one is ever run. Knows nothing of what the kernels compute.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jax

LIBRARY = Path(__file__).with_name("kernels.so")
_SOURCES = ("kernels.cc", "kernels.inc", "vectors.inc", "products.inc", "attention.inc")
_TARGETS = ("antipode_product", "antipode_attention")
_FLAGS = ("-O3", "-std=gnu++17", "-fPIC", "-shared", "-pthread")
_MARK = b"\nantipode kernels for "

_log = logging.getLogger(__name__)


class KernelsError(Exception):
    """Why the kernels cannot be compiled or used, in a sentence."""


def are_available() -> bool:
    """Whether the kernels are registered with JAX; the first call tries it, and logs the result."""
    return _register(LIBRARY)


@cache
def _register(library: Path) -> bool:
    try:
        register(library)
    except KernelsError as error:
        _log.info("CPU kernels are not used, XLA does their work: %s", error)
        return False
    _log.info("CPU kernels are used")
    return True


def register(library: Path) -> None:
    """Load a library and register its kernels with JAX. Raises KernelsError."""
    check(library)
    try:
        loaded = ctypes.CDLL(str(library))
        for name in _TARGETS:
            jax.ffi.register_ffi_target(
                name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu"
            )
    except Exception as error:
        # Whatever the system or JAX has against the library, XLA can do the work.
        raise KernelsError(f"{library.name} cannot be loaded: {error}") from error


def check(library: Path) -> None:
    """Raise KernelsError unless the library is there, whole, and built for this software."""
    try:
        content = library.read_bytes()
    except OSError as error:
        raise KernelsError("they are not compiled (make cpu-kernels does it)") from error
    code, mark, line = content.rpartition(_MARK)
    built_for, _, digest = line.decode(errors="replace").rpartition(" ")
    if not mark or digest != hashlib.sha256(code).hexdigest():
        raise KernelsError(f"{library.name} is damaged; compile it again (make cpu-kernels)")
    if built_for != _wanted():
        raise KernelsError(
            f"{library.name} is for {built_for}, not {_wanted()}: compile it again"
            " (make cpu-kernels)"
        )


def compile_library(library: Path = LIBRARY) -> None:
    """Compile the sources with $CXX or g++. Raises KernelsError."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise KernelsError(f"there is no compiler {compiler}")
    partial = library.with_suffix(".partial")
    headers, source = jax.ffi.include_dir(), str(Path(__file__).with_name(_SOURCES[0]))
    command = [compiler, *_FLAGS, "-isystem", headers, source, "-o", str(partial)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise KernelsError(f"{compiler} failed: {run.stderr.strip()}")
    code = partial.read_bytes()
    line = f"{_wanted()} {hashlib.sha256(code).hexdigest()}"
    partial.write_bytes(code + _MARK + line.encode())
    partial.replace(library)


def _wanted() -> str:
    """What a library must have been built for."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for name in _SOURCES:
        digest.update((folder / name).read_bytes())
    return f"jaxlib {importlib.metadata.version('jaxlib')}, sources {digest.hexdigest()[:16]}"
