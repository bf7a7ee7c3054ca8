"""Reading the machine's certificates takes longer than most of these tests: it is done once.

Every client that is made would read them again, though none of the servers here has one. Tests of
other folders get contexts of their own, which they may change.
"""

from __future__ import annotations

import ssl
from functools import cache

import pytest


@pytest.fixture(autouse=True, scope="package")
def certificates_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield
