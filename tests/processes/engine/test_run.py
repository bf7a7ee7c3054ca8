"""What is done once, between the start of an engine process and its first step."""

from __future__ import annotations

import gc
from unittest.mock import Mock

from server.config.engine_config import EngineConfig
from server.processes.engine.run import settled


def test_a_collection_does_not_look_at_what_was_built(monkeypatch):
    calls = Mock()
    monkeypatch.setattr(gc, "collect", calls.collect)
    monkeypatch.setattr(gc, "freeze", calls.freeze)
    config, listener = EngineConfig(), object()
    built = settled(calls.build)(config, listener)
    assert [each[0] for each in calls.mock_calls] == ["build", "collect", "freeze"]
    calls.build.assert_called_once_with(config, listener)
    assert built is calls.build.return_value
