"""The OpenAPI document is true: what it allows gets an answer it describes, what it forbids a 4xx.

Examples are drawn from the document itself. Nothing may give a 500. `make unit` tries five examples
per operation; `make test` 25, and the edges of every field.
"""

from __future__ import annotations

import pytest


@pytest.mark.timeout(1200)
def test_answers_are_as_described(pytestconfig, subtests):
    from tests.api.http.described import operations

    is_unit = pytestconfig.getoption("unit")
    tried = operations(5 if is_unit else 25, has_edges=not is_unit)
    assert len(tried) > 20
    for label, run in tried.items():
        with subtests.test(label):
            run()
