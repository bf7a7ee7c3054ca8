"""The lab can fail: without retries and resumption it reports what a dead region costs."""

from __future__ import annotations

from k8s.lab.chart_numbers import Numbers
from k8s.lab.load import LoadShape
from k8s.lab.run import Lab
from k8s.lab.scenarios import SCENARIOS
from tests.e2e.servers import plain_environment

KILL = next(scenario for scenario in SCENARIOS if scenario.name == "kill")
SHAPE = LoadShape(rate=30, num_streams=4, stream_tokens=400, stream_pause=0.1, resume=False)


async def test_without_retries_and_resumption_a_kill_is_reported_as_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", plain_environment()["XLA_FLAGS"])
    lab = await Lab.open(tmp_path, Numbers.from_charts(), SHAPE, retries=False, num_replicas=1)
    try:
        result = await lab.run(KILL, SHAPE)
    finally:
        lab.close()
    assert result.failed > 0
    assert result.broken_streams > 0
    assert result.tokens_lost > 0
    assert result.resumed_streams == 0
    assert any("failed" in promise for promise in result.broken_promises)
