import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchor, headings, prose

FOLDERS = ("benchmarks", "client", "docs", "helm", "k8s", "models", "proto", "scripts", "server")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(rf"`((?:{'|'.join((*FOLDERS, 'tests'))})/[\w./*-]*)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of `text` that lead nowhere, seen from `page`."""
    return [link for link in _LINK.findall(text) if not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    if "://" in link:
        return True
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not heading or heading in map(anchor, headings(target))


def missing_paths(text: str) -> list[str]:
    """The paths of the tree that `text` names and that are not there."""
    return [path for path in _PATH.findall(text) if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_of_a_page_leads_somewhere(page):
    assert broken_links(page, prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_is_in_the_tree(page):
    assert missing_paths(prose(page)) == []


def test_a_link_to_a_file_or_heading_that_is_not_there_is_found():
    page = ROOT / "README.md"
    text = "[a](docs/nowhere.md) [b](docs/README.md) [c](docs/README.md#nothing) [d](http://x/y)"
    assert broken_links(page, text) == ["docs/nowhere.md", "docs/README.md#nothing"]


def test_a_path_that_is_not_in_the_tree_is_found():
    assert missing_paths("`server/errors.py` `server/nothing.py` `models/tiny/*`") == [
        "server/nothing.py"
    ]


def test_every_page_of_the_docs_is_in_their_index():
    index = ROOT / "docs/README.md"
    linked = {link.partition("#")[0] for link in _LINK.findall(index.read_text())}
    pages = {page.name for page in index.parent.glob("*.md")} - {index.name}
    assert pages - linked == set()


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
