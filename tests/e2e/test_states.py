"""An engine process that serves a model with recurrent states: through a change of version, and on
several hosts.
"""

from __future__ import annotations

import itertools

import pytest

from server.link.frames import EngineInfo, Pulse
from server.link.sampling import SamplingParams
from tests.e2e.engines import (
    change,
    serving,
    serving_from_two_hosts,
    wait_long,
    write_two_versions,
)
from tests.golden import references
from tests.processes.engine.test_process import metric

NAME = "qwen3_5"
NUM_TOKENS = 24
MARGIN = 1e-3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two versions that differ in how fast their states forget."""

    def changed(name, values):
        return values + 2 if name.endswith("A_log") else values

    root, reference = tmp_path_factory.mktemp("versions"), references.read(NAME)
    # After a single token there is nothing to forget.
    return write_two_versions(root, NAME, changed, reference, num_golden=1)


@pytest.fixture
def client(folders, tmp_path):
    with serving(folders[0], tmp_path / "engine.sock", max_num_batched_tokens=64) as client:
        yield client


def find_prompt():
    """A prompt of several tiles, and the tokens it must give: none of them is a close call."""
    reference = references.read(NAME)
    for number, prompt in enumerate(reference.prompts):
        if len(prompt) > 100 and (reference.margins[number, :NUM_TOKENS] > MARGIN).all():
            return prompt, reference.greedy_ids[number, :NUM_TOKENS].tolist()
    raise AssertionError("every long prompt has a close call")


def generate(client, request_id, prompt):
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    client.submit(request_id, prompt_token_ids=prompt, params=params)
    return client.tokens(request_id)[0]


def test_a_version_finds_its_own_states_only(client, folders):
    wait_long(client, EngineInfo)
    prompt, expected = find_prompt()
    commands, asked = itertools.count(1), itertools.count(1)
    assert generate(client, next(asked), prompt) == expected
    for policy in ("resource", "availability"):
        change(client, next(commands), "load", version="2", path=str(folders[1]), policy=policy)
        change(client, next(commands), "promote", version="2")
        of_second = generate(client, next(asked), prompt)
        assert of_second != expected
        assert generate(client, next(asked), prompt) == of_second
        change(client, next(commands), "rollback")
        assert generate(client, next(asked), prompt) == expected
        change(client, next(commands), "unload", version="2")
    pulse = client.wait_for(Pulse)
    assert metric(pulse, "antipode_compilations_after_ready_total") == 0


@pytest.mark.parametrize("tensor_size", [1, 2], ids=["a rank each", "together"])
def test_several_hosts_keep_states(start, folders, monkeypatch, tensor_size):
    flag = "--max-num-batched-tokens=64"
    with serving_from_two_hosts(start, monkeypatch, folders[0], tensor_size, flag) as client:
        client.wait_for(EngineInfo)
        prompt, expected = find_prompt()
        # The second finds the state that the first one kept.
        assert [generate(client, i, prompt) for i in (1, 2)] == [expected, expected]
