"""Under any schema that compiles, what is written is JSON that the schema describes.

`--schemas 2000` tries as many; a plain run tries 50.
"""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.grammar.grammar_error import GrammarError
from server.link.sampling import Grammar
from tests.grammar.schemas import schemas
from tests.grammar.vocabularies import EOS, generate, make_compiler, text_of


def written(schema: dict, seed: int, is_greedy: bool) -> str | None:
    """The text of a choice under a schema; None for a schema that is refused."""
    try:
        matcher = make_compiler().compile(Grammar("json_schema", json.dumps(schema)))
    except GrammarError:
        return None
    token_ids = generate(matcher, seed, is_greedy=is_greedy)
    return text_of(token_ids) if token_ids[-1] == EOS else ""


@pytest.fixture(scope="module")
def num_schemas(request):
    return request.config.getoption("schemas")


def test_every_text_is_described_by_its_schema(num_schemas):
    ends = []

    @settings(
        max_examples=num_schemas,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(schemas(), st.integers(0, 2**30), st.booleans())
    def check(schema, seed, is_greedy):
        text = written(schema, seed, is_greedy)
        ends.append(bool(text))
        if text:
            jsonschema.validate(
                json.loads(text),
                schema,
                jsonschema.Draft202012Validator,
                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
            )

    check()
    # A schema that is refused, or a text that does not end, proves nothing.
    assert sum(ends) > 0.95 * len(ends)
