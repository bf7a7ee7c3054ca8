"""The pages a reader meets, and how Markdown names their headings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "helm").glob("*/*.md"),
        ROOT / "client/README.md",
    ]
)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def headings(page: Path, level: int | None = None) -> list[str]:
    marks = "#{1,6}" if level is None else "#" * level
    return re.findall(rf"^{marks} (.+)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it: lower case, no punctuation, spaces as dashes."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
