from __future__ import annotations

from server.engine.programs.baked import ProgramKey
from server.plan.result_store import ResultStore
from tests.plan.reports import program

KEY = ProgramKey(jax="1", jaxlib="1", libtpu="1", flags="", topology="v6e", program="a" * 64)
OTHER = ProgramKey(jax="1", jaxlib="1", libtpu="2", flags="", topology="v6e", program="a" * 64)


def test_a_report_is_found_by_the_key_it_was_kept_under(tmp_path):
    store = ResultStore(tmp_path / "results")
    store.keep(KEY, program())
    assert store.find(KEY) == program()
    assert store.find(OTHER) is None


def test_another_store_of_the_same_folder_finds_it_too(tmp_path):
    ResultStore(tmp_path).keep(KEY, program())
    assert ResultStore(tmp_path).find(KEY) == program()


def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path):
    store = ResultStore(tmp_path)
    store.keep(KEY, program())
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert store.find(KEY) is None
