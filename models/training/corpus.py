"""The corpus: the Python standard library's source, and which of its files are held out.

A file is held out by a hash of its path, so the split does not move when files come and go between
releases of Python. Tests and tables of data are no part of it. Knows no tokens.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ONE_IN = 20
_LEFT_OUT = {
    "dist-packages",
    "encodings",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
# What a build writes about itself differs from machine to machine.
_BUILD_FILES = "_sysconfigdata"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts by path, relative to the library and in order; a training text is never held out."""

    training: dict[str, str]
    held_out: dict[str, str]


def read_corpus(library: Path | None = None) -> Corpus:
    """The source files of `library`, by default of the Python that runs this."""
    library = library or Path(sysconfig.get_path("stdlib"))
    texts = {name: (library / name).read_bytes().decode() for name in sorted(_names(library))}
    held_out = {name: text for name, text in texts.items() if is_held_out(name)}
    # A file that is there twice must not be learnt under its other name.
    known = set(held_out.values())
    training = {
        name: text
        for name, text in texts.items()
        if name not in held_out and text and text not in known
    }
    return Corpus(training, held_out)


def is_held_out(name: str) -> bool:
    """Whether a file, by its path with forward slashes, is one of the 1 in 20 never trained on."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) % _ONE_IN == 0


def _names(library: Path) -> Iterator[str]:
    for path in library.rglob("*.py"):
        name = path.relative_to(library)
        if not (_LEFT_OUT & set(name.parts) or name.name.startswith(_BUILD_FILES)):
            yield name.as_posix()
