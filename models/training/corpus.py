"""The corpus: the source of the Python standard library, split into training and held-out files.

A hash of its path decides whether a file is held out, so other files that a release of Python adds
or removes do not change the split. The corpus omits tests and data tables. Knows no tokens.
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
# Files that a Python build writes about itself, which differ between machines.
_BUILD_FILES = "_sysconfigdata"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts by path relative to the library, in order; no training text is held out too."""

    training: dict[str, str]
    held_out: dict[str, str]


def read_corpus(library: Path | None = None) -> Corpus:
    """The source files of `library`, by default of the Python that runs this."""
    library = library or Path(sysconfig.get_path("stdlib"))
    texts = {name: (library / name).read_bytes().decode() for name in sorted(_names(library))}
    held_out = {name: text for name, text in texts.items() if is_held_out(name)}
    # A held-out file may have a second name, under which it must not be trained on.
    known = set(held_out.values())
    training = {
        name: text
        for name, text in texts.items()
        if name not in held_out and text and text not in known
    }
    return Corpus(training, held_out)


def is_held_out(name: str) -> bool:
    """Whether a file, by its path with forward slashes, is among the held-out 1 in 20."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) % _ONE_IN == 0


def _names(library: Path) -> Iterator[str]:
    for path in library.rglob("*.py"):
        name = path.relative_to(library)
        if not (_LEFT_OUT & set(name.parts) or name.name.startswith(_BUILD_FILES)):
            yield name.as_posix()
