"""No background thread of the server ends unnoticed, and none is started another way."""

from __future__ import annotations

import ast
import logging
import threading
from pathlib import Path

import pytest

import server
from server.metrics.metrics import THREADS
from server.threads import fault_counts, guarded

ROOT = Path(server.__file__).parent
# What starts a thread. asyncio.to_thread and executors hand exceptions to whoever waits.
STARTERS = {"Thread", "Timer", "start_new_thread"}
# Threads that end their process, or run where nothing renders metrics.
UNCOUNTED = {"control", "reads", "publish"}


def calls(name_is):
    """(file, call) of every call in the server whose function has such a name."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name_is(name):
                    yield str(path.relative_to(ROOT)), node


def names():
    return {node.args[1].value for _, node in calls(lambda name: name == "guarded")}


def test_every_thread_of_the_server_is_started_by_the_guard():
    assert [file for file, _ in calls(STARTERS.__contains__)] == ["threads.py"]


def test_nothing_inherits_from_a_thread():
    bases = [
        base
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in map(ast.unparse, node.bases)
    ]
    assert not STARTERS & {base.rpartition(".")[2] for base in bases}


def test_the_faults_of_every_thread_are_a_metric_from_the_start():
    assert names() - UNCOUNTED == set(THREADS)


class Work:
    """Fails a number of times, then is done."""

    def __init__(self, num_faults):
        self.num_faults, self.num_runs, self.heard = num_faults, 0, []

    def run(self):
        self.num_runs += 1
        if self.num_runs <= self.num_faults:
            raise RuntimeError(f"fault {self.num_runs}")

    def do(self, **options):
        thread = guarded(self.run, "work", on_fault=self.heard.append, pause=0.0, **options)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


def test_a_thread_goes_on_after_exceptions_and_each_is_counted_and_heard(caplog):
    before, work = fault_counts().get("work", 0), Work(num_faults=3)
    work.do()
    assert work.num_runs == 4
    assert [str(error) for error in work.heard] == ["fault 1", "fault 2", "fault 3"]
    assert fault_counts()["work"] == before + 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3


def test_a_thread_that_cannot_go_on_ends_after_it_was_heard():
    work = Work(num_faults=3)
    work.do(goes_on=False)
    assert (work.num_runs, len(work.heard)) == (1, 1)


def test_a_report_that_fails_does_not_end_the_thread(monkeypatch):
    work = Work(num_faults=1)

    def fail(error):
        raise OSError("nobody listens")

    thread = guarded(work.run, "work", on_fault=fail, pause=0.0)
    thread.start()
    thread.join(10)
    assert work.num_runs == 2


@pytest.mark.parametrize(("number", "name"), [(None, "work"), (3, "work-3")])
def test_threads_of_one_name_have_numbers_and_share_their_count(number, name):
    heard = []
    thread = guarded(lambda: heard.append(threading.current_thread().name), "work", number=number)
    thread.start()
    thread.join(10)
    assert heard == [name]
