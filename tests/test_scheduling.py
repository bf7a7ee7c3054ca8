"""Files that compile the same programs are run by one worker, others by any."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scheduling import TOGETHER, scope_of


@pytest.mark.parametrize("folder", TOGETHER)
def test_the_files_of_a_folder_that_share_programs_are_one_scope(folder):
    files = sorted(Path(folder).glob("test_*.py"))
    assert len(files) > 1
    assert len({scope_of(f"{file}::test_of_it[a::b]") for file in files}) == 1


def test_another_file_is_a_scope_by_itself():
    assert scope_of("tests/e2e/test_drain.py::test_a[b]") == "tests/e2e/test_drain.py"
