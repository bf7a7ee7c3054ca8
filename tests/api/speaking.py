"""An engine that says a text to whoever asks, as a model of the Qwen family: fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from server.api.tokenizers.tokenizer import Tokenizer
from tests.api.fakes import FakeEngine
from tests.api.templates import QWEN3, tokenizer_with

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nWhere is Oslo?\n</think>\n\n"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_with(QWEN3)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=8192, vocab_size=400)


@pytest.fixture
def says(engine: FakeEngine, tokenizer: Tokenizer) -> Callable[[str], None]:
    """Have the engine answer with a text, three tokens a step."""

    def script(text: str) -> None:
        token_ids = [*tokenizer.encode(text), *FakeEngine.EOS]
        engine.script = [token_ids[i : i + 3] for i in range(0, len(token_ids), 3)]

    return script


@pytest.fixture
def prompted(engine: FakeEngine, tokenizer: Tokenizer) -> Callable[[], str]:
    """The newest request's prompt."""
    return lambda: tokenizer.decode(engine.submitted[-1].prompt_token_ids)


def named_events(body: bytes) -> list[dict]:
    """The data of server-sent events with names; every name is its data's type."""
    *whole, rest = body.decode().split("\n\n")
    assert rest == ""
    data = []
    for event in whole:
        name, datum = event.split("\n")
        data.append(json.loads(datum.removeprefix("data: ")))
        assert name == f"event: {data[-1]['type']}"
    return data
