"""Real attention over pools that windowed layers give their blocks back to.

What a sequence gets must not depend on whether its windowed layers keep all of it or their window
only, in a pool where what was given back is soon overwritten.
"""

from __future__ import annotations

import pytest

from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import ModelRunner
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from tests.engine.builders import is_all_free, make_sequence
from tests.golden import random_models

LIMITS = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_model_len": 96}
NUM_BLOCKS = 50
COMMON = [7 * i % 250 + 3 for i in range(30)]
PROMPTS = [COMMON[:num_shared] + [9 + i] * 20 for i, num_shared in enumerate((30, 13, 0, 30, 29))]


def generate(runner, kinds, num_host_blocks=()):
    """The tokens of every prompt, how many of them were found in the prefix cache, and the blocks
    of each kind that came back from the host."""
    blocks = BlockManager(kinds, runner.block_size, num_host_blocks=num_host_blocks)
    versions = ServedVersions(LoadedVersion())
    scheduler = Ranks([Scheduler(blocks, max_queue_len=9, versions=versions, **LIMITS)])
    seqs = [
        make_sequence(prompt, request_id=i, max_tokens=30, temperature=0.0, ignore_eos=True)
        for i, prompt in enumerate(PROMPTS)
    ]
    unread, queued, last = None, list(seqs), None
    while queued or scheduler.num_unfinished or unread:
        # Each comes when the one before has its first token, to find what that has given back.
        if queued and (last is None or len(last.token_ids) > last.num_prompt_tokens):
            last = queued.pop(0)
            scheduler.add([last], 0.0)
        batch = scheduler.schedule(0.0)
        following = (batch, runner.execute(batch)) if batch else None
        if unread:
            scheduler.postprocess(unread[0], runner.read(unread[1]))
        unread = following
    assert is_all_free(blocks)
    restored = [pool.host.num_restored for pool in blocks.pools]
    return [seq.token_ids for seq in seqs], sum(seq.num_cached_tokens for seq in seqs), restored


@pytest.mark.parametrize("family", ["gemma3", "gemma4-moe"])
def test_layers_that_keep_their_window_only_give_the_same_tokens(tmp_path, family):
    folder = random_models.write(family, tmp_path)
    config = EngineConfig(
        model=str(folder),
        block_size=4,
        num_blocks=NUM_BLOCKS,
        data_parallel_size=1,
        prefix_host_bytes=8 << 20,
        **LIMITS,
    )
    runner = ModelRunner.build(folder, config)
    assert runner.kinds == (KVKind(None, NUM_BLOCKS), KVKind(8, NUM_BLOCKS))
    expected, _, _ = generate(runner, (KVKind(None, NUM_BLOCKS),) * 2)
    tokens, num_cached, _ = generate(runner, (KVKind(None, NUM_BLOCKS), KVKind(8, 14)))
    assert tokens == expected
    assert num_cached > 0, "what was given back was never found again"
    few = (KVKind(None, 22), KVKind(8, 14))
    tokens, _, restored = generate(runner, few, runner.num_host_blocks)
    assert tokens == expected
    assert all(restored), "no block of a kind came back from the host"
