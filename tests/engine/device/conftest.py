"""Engines compile one program at a time: the other worker of a run has the other core.

Threads that take turns on a core need more of it for the same programs. Knows no test.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_compiler():
    from server.engine.device import compiling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "_THREADS", 1)
        yield
