"""A service over a scripted engine, and its HTTP application in process."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import pytest

from server.api.generation_service import GenerationService
from server.api.health import Health
from server.api.tokenizers.tokenizer import Tokenizer
from server.lifecycle import Lifecycle
from tests.api.fakes import FakeEngine, make_health, make_service, small_pretrained
from tests.api.http_client import app, client

__all__ = ["app", "client"]


@pytest.fixture(scope="session")
def openai() -> ModuleType:
    """The official client. Importing it takes a second: only the worker that uses it does so."""
    return import_module("openai")


@pytest.fixture(scope="session")
def anthropic() -> ModuleType:
    """The same of the other protocol."""
    return import_module("anthropic")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(small_pretrained())


@pytest.fixture
def engine(tokenizer: Tokenizer) -> FakeEngine:
    """Says "hello world" in three steps, the end token in the last."""
    words = [tokenizer.encode("hello"), tokenizer.encode(" wor")]
    return FakeEngine([*words, [*tokenizer.encode("ld"), *FakeEngine.EOS]])


@pytest.fixture
def lifecycle() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    return lifecycle


@pytest.fixture
def service(engine: FakeEngine, tokenizer: Tokenizer, lifecycle: Lifecycle) -> GenerationService:
    return make_service(engine, tokenizer, lifecycle)


@pytest.fixture
def health(engine: FakeEngine, lifecycle: Lifecycle) -> Health:
    return make_health(engine, lifecycle)


@pytest.fixture
def ids(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return tokenizer.encode
