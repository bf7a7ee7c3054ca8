"""The one way to start a background thread in the server: an exception never ends it unnoticed.

Each is counted, logged and handed to the thread's own `on_fault`. The thread then goes on, unless
it says that it cannot. Knows no thread's work.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

# A thread that fails again and again must not take a core.
_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_faults: Counter[str] = Counter()


def guarded(
    run: Callable[[], None],
    name: str,
    *,
    on_fault: Callable[[Exception], None] = lambda error: None,
    goes_on: bool = True,
    number: int | None = None,
    pause: float | None = None,
) -> threading.Thread:
    """A daemon thread, not started, that does `run`.

    After an exception `on_fault` is called and, where the thread `goes_on`, `run` again after
    `pause` seconds. Otherwise the thread ends. `number` tells threads of one name apart.
    """

    def work() -> None:
        while not _is_done(run, name, on_fault) and goes_on:
            time.sleep(_PAUSE_SECONDS if pause is None else pause)

    full_name = name if number is None else f"{name}-{number}"
    return threading.Thread(target=work, name=full_name, daemon=True)


def end_process(error: Exception) -> None:
    """For a thread without which its process is worth nothing: end the process, status 1."""
    name = threading.current_thread().name
    _log.critical("this process ends, because its thread %s failed: %r", name, error)
    logging.shutdown()
    os._exit(1)


def count_fault(name: str) -> None:
    """Count a fault that a thread caught itself."""
    with _lock:
        _faults[name] += 1


def fault_counts() -> dict[str, int]:
    """By the name of a thread, the exceptions in this process that nobody foresaw."""
    with _lock:
        return dict(_faults)


def _is_done(run: Callable[[], None], name: str, on_fault: Callable[[Exception], None]) -> bool:
    try:
        run()
    except Exception as error:
        count_fault(name)
        _log.exception("thread %s failed in a way that nobody foresaw", name)
        _answer(error, name, on_fault)
        return False
    return True


def _answer(error: Exception, name: str, on_fault: Callable[[Exception], None]) -> None:
    try:
        on_fault(error)
    except Exception:
        _log.exception("thread %s could not report its fault", name)
