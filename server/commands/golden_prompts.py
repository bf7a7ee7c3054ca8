"""Golden prompts of a new version: texts, continued by its own weights in the server's own engine.

Imports JAX. Knows neither folders of versions nor their manifests.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from models.checkpoint.manifest import Golden, GoldenPrompt
from models.huggingface.config_file import read_config
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.engine_config import EngineConfig
from server.engine.device.model_runner import ModelRunner
from server.engine.engine import Engine
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.snapshots import snapshots
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step_choice import StepChoice
from server.engine.policy.whole_prompt_choice import WholePromptChoice
from server.engine.requests import OWN_CLIENT
from server.threads import end_process, guarded
from server.versions.golden import GoldenClient

_NUM_TOKENS = 16
_NUM_PROMPT_TOKENS = 32
_TIMEOUT_SECONDS = 600.0
_SIZES = EngineConfig(
    max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128, data_parallel_size=1
)


def make_golden(folder: Path, texts: tuple[str, ...], tolerance: float) -> Golden:
    """Golden prompts of these texts, continued by the checkpoint on this machine's devices.

    ValueError for a text without a token.
    """
    tokenizer = Tokenizer.load(folder)
    prompts = [tuple(tokenizer.encode(text)[:_NUM_PROMPT_TOKENS]) for text in texts]
    if not all(prompts):
        raise ValueError(f"the tokenizer makes no token of {texts[prompts.index(())]!r}")
    return Golden(tolerance, tuple(map(GoldenPrompt, prompts, _generate(folder, prompts))))


def _generate(folder: Path, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The greedy continuation of every prompt, by the server's own engine."""
    version = LoadedVersion(folder.name)
    runner = ModelRunner.build(folder, sizes_of(folder), version=version)
    client = GoldenClient(lambda submit: engine.receive(OWN_CLIENT, submit))
    engine = _engine_of(runner, client, version, len(prompts))
    loop = guarded(engine.run, "publish", on_fault=end_process, goes_on=False)
    loop.start()
    try:
        asked = [(prompt, _NUM_TOKENS) for prompt in prompts]
        answers = client.generate(folder.name, asked, _TIMEOUT_SECONDS)
    finally:
        engine.stop()
        loop.join()
    return [tuple(token_id for token_id, _ in answer) for answer in answers]


def sizes_of(folder: Path) -> EngineConfig:
    """Where tokens see later ones, a step must hold a prompt and what follows it."""
    config = read_config(folder)
    longest = min(_SIZES.max_model_len, config.max_position)
    step = longest if config.bidirectional else _SIZES.max_num_batched_tokens
    return replace(_SIZES, max_model_len=longest, max_num_batched_tokens=step)


def _engine_of(
    runner: ModelRunner, client: GoldenClient, version: LoadedVersion, queue_len: int
) -> Engine[Any]:
    """An engine without an API in front; `client` gets its answers."""
    scheduler = Scheduler(
        BlockManager(
            runner.kinds,
            runner.block_size,
            prefix_caching=not runner.is_bidirectional,
            snapshots=snapshots(_SIZES.max_num_seqs, runner.num_snapshots),
        ),
        choice=WholePromptChoice if runner.is_bidirectional else StepChoice,
        max_num_seqs=_SIZES.max_num_seqs,
        max_num_batched_tokens=runner.max_num_batched_tokens,
        max_queue_len=queue_len,
        max_model_len=runner.max_model_len,
        versions=ServedVersions(version),
    )
    return Engine(
        Ranks([scheduler]),
        runner,
        _Nobody(),
        lambda _, frame: client.receive(frame),
        eos_token_ids=runner.eos_token_ids,
    )


class _Nobody:
    """An observer that counts nothing."""

    def on_step(self, stats: object) -> None: ...

    def on_preempted(self, num_preempted: int) -> None: ...

    def on_admitted(
        self, queue_seconds: float, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None: ...

    def on_first_token(self, seconds: float) -> None: ...

    def on_finished(
        self,
        outcome: str,
        seconds: float,
        seconds_per_output_token: float | None,
        *,
        is_hopeless: bool = False,
    ) -> None: ...

    def on_refused(self, outcome: str, *, is_hopeless: bool = False) -> None: ...

    def on_key_use(self, key: str, num_prompt_tokens: int, num_generated_tokens: int) -> None: ...
