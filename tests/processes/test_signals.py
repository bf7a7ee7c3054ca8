"""Signals to wait for, whichever thread gets them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from server.processes.signals import Signals


@pytest.fixture
def signals():
    with Signals((signal.SIGUSR1, signal.SIGUSR2)) as taken:
        yield taken


@pytest.fixture
def other_thread():
    """A thread that blocks no signal, as libraries have."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield thread
    end.set()
    thread.join()


def test_signals_come_in_their_order(signals):
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signals.next(5) == signal.SIGUSR2
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.next(5) == signal.SIGUSR1


def test_no_signal_in_time_is_none(signals):
    assert signals.next(0.01) is None


def test_a_signal_that_came_while_nobody_waited_is_not_lost(signals):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.next() == signal.SIGUSR1


def test_a_signal_that_another_thread_gets_is_not_lost(signals, other_thread):
    signal.pthread_kill(other_thread.ident, signal.SIGUSR1)
    assert signals.next(5) == signal.SIGUSR1


def test_a_signal_that_could_not_wake_anyone_is_not_lost(signals):
    waking = signal.set_wakeup_fd(-1)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    assert signals.next(0.1) == signal.SIGUSR1


def test_held_ones_come_later_even_if_another_thread_is_there(signals, other_thread):
    with signals.held():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.next(5) == signal.SIGUSR1


def test_a_process_started_while_they_are_held_has_them_blocked(signals):
    ask = "import signal; print(signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with signals.held():
        answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True)
    assert answer.stdout.strip() == b"True"


def test_afterwards_all_is_as_before():
    before = signal.getsignal(signal.SIGUSR1)
    with Signals((signal.SIGUSR1,)):
        assert signal.getsignal(signal.SIGUSR1) is not before
    assert signal.getsignal(signal.SIGUSR1) is before
