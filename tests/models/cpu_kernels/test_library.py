"""A library of kernels is used only if it is whole and built for this software."""

from __future__ import annotations

import logging
import shutil

import pytest

from models.cpu_kernels import library
from models.cpu_kernels.library import KernelsError
from tests.models.cpu_kernels.compiled import needs_compiler


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    library.compile_library(path)
    return path


@pytest.fixture
def copied(compiled, tmp_path):
    return shutil.copy(compiled, tmp_path / "kernels.so")


@needs_compiler
def test_what_was_compiled_here_is_taken(copied):
    library.check(copied)


def test_nothing_compiled_is_said_so(tmp_path):
    with pytest.raises(KernelsError, match="they are not compiled"):
        library.check(tmp_path / "kernels.so")


@needs_compiler
@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_part_of_a_library_is_refused(copied, size):
    copied.write_bytes(copied.read_bytes()[:size])
    with pytest.raises(KernelsError, match="damaged"):
        library.register(copied)


@needs_compiler
def test_a_changed_byte_is_refused(copied):
    content = bytearray(copied.read_bytes())
    content[5000] ^= 1
    copied.write_bytes(content)
    with pytest.raises(KernelsError, match="damaged"):
        library.register(copied)


@needs_compiler
@pytest.mark.parametrize("version", ["0.11.0", "0.12.0.2"])
def test_one_for_another_jaxlib_is_refused_by_name(copied, monkeypatch, version):
    monkeypatch.setattr(library.importlib.metadata, "version", lambda name: version)
    with pytest.raises(KernelsError, match=rf"not jaxlib {version}"):
        library.register(copied)


@needs_compiler
def test_one_of_other_sources_is_refused(copied, monkeypatch):
    monkeypatch.setattr(library, "_SOURCES", ("kernels.cc",))
    with pytest.raises(KernelsError, match="compile it again"):
        library.register(copied)


def test_what_no_system_can_load_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "check", lambda path: None)
    path = tmp_path / "kernels.so"
    path.write_bytes(b"no library")
    with pytest.raises(KernelsError, match="cannot be loaded"):
        library.register(path)


def test_without_a_compiler_it_says_which_one_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelsError, match="no compiler no-such-compiler"):
        library.compile_library(tmp_path / "kernels.so")


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_FLAGS", ("--no-such-flag",))
    with pytest.raises(KernelsError, match="no-such-flag"):
        library.compile_library(tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_logged_once_and_leaves_the_work_to_xla(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "kernels.so")
    with caplog.at_level(logging.INFO):
        assert not library.are_available()
        assert not library.are_available()
    assert caplog.text.count("CPU kernels are not used, XLA does their work: they are not") == 1
