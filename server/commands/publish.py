"""`antipode publish` and `antipode verify`: make a version from a checkpoint, and check a version.

A version is a folder with a checkpoint that was loaded once, golden prompts that its own weights
continued, and `antipode.json`, written last. Publishing never overwrites. Nothing here serves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoint import manifest
from models.checkpoint.files import LocalFiles
from models.checkpoint.gcs import GcsFiles, is_gcs
from models.checkpoint.manifest import Golden, GoldenPrompt
from models.checkpoint.module_files import module_files
from models.checkpoint.version_folder import VersionFolder, open_version
from models.config import ModelConfigError
from server.config.engine_config import EngineConfig
from server.threads import end_process, guarded
from server.versions.model_file.model_file import is_version

if TYPE_CHECKING:
    from server.engine.device.model_runner import ModelRunner
    from server.engine.engine import Engine
    from server.engine.policy.sequences.sequence import LoadedVersion
    from server.versions.golden import GoldenClient

PUBLISH = """Make SRC, a checkpoint directory or a GGUF file, the version DIR/<model>/<version>.

The checkpoint is loaded and continues golden prompts. Every server uses these prompts to check the
weights before it serves them. An existing version is never overwritten."""
VERIFY = "Check that a published version is whole: sizes, checksums, configuration, tensor shapes."

_NUM_TOKENS = 16
_NUM_PROMPT_TOKENS = 32
_TIMEOUT_SECONDS = 600.0
_SIZES = EngineConfig(
    max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128, data_parallel_size=1
)
_TEXTS = (
    "The model that answers here is the one that was published.",
    "def add(a, b):\n    return",
    "Once upon a time there was a lighthouse",
    "1, 2, 3, 5, 8, 13,",
)


class PublishError(Exception):
    """A version that cannot be published or is not whole; the message says why."""


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint directory or a .gguf file")
    parser.add_argument(
        "target",
        metavar="DIR",
        help="the new version's folder or gs://BUCKET/FOLDER, ending in <model>/<version>",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.1,
        help="how much more likely than a golden token another token may be that a server generates"
        " in its place, as a difference of natural logarithms (default: 0.1)",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="golden prompts, one per line; by default four short texts",
    )


def _tolerance(text: str) -> float:
    try:
        return manifest.checked_tolerance(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run_publish(arguments: argparse.Namespace) -> int:
    """Publish. Returns the exit code."""
    return _explained(lambda: _publish_as_asked(arguments))


def _publish_as_asked(arguments: argparse.Namespace) -> str:
    texts = _read_texts(Path(arguments.prompts)) if arguments.prompts else _TEXTS
    source, target = Path(arguments.source), arguments.target
    if is_gcs(target):
        return publish_to_bucket(source, target, texts, arguments.tolerance)
    return publish(source, Path(target), texts, arguments.tolerance)


def _read_texts(path: Path) -> tuple[str, ...]:
    """The lines that are not empty. Raises PublishError: servers refuse a version without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PublishError(f"the golden prompts in {path} cannot be read: {error}") from error
    if texts := tuple(line for line in lines if line.strip()):
        return texts
    raise PublishError(f"{path} has no golden prompt; write at least one, each in a line")


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify. Returns the exit code."""
    return _explained(lambda: verify(arguments.path))


def publish(
    source: Path, target: Path, texts: tuple[str, ...] = _TEXTS, tolerance: float = 0.1
) -> str:
    """Write `source` as the version `target`. Returns one sentence. Raises PublishError."""
    if not is_version(target.name):
        raise PublishError(
            f"{target}: the name of a version's folder must be a whole number, "
            f"and it is {target.name!r}"
        )
    if target.exists():
        raise PublishError(
            f"{target} exists already; a version is never overwritten, so choose another number"
        )
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy(source, partial)
        golden = make_golden(partial, texts, tolerance)
        manifest.write(partial, golden)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    manifest.sync_folder(target.parent)
    return f"published {target}, with {len(golden.prompts)} golden prompts"


def publish_to_bucket(source: Path, target: str, texts: tuple[str, ...], tolerance: float) -> str:
    """Publish to a bucket: make the version here, then upload it, the manifest last.

    Returns one sentence. Raises PublishError.
    """
    bucket = GcsFiles(target)
    if bucket.names():
        raise PublishError(
            f"{target} exists already; a version is never overwritten, so choose another number"
        )
    with tempfile.TemporaryDirectory(prefix="antipode-publish-") as folder:
        made = Path(folder) / target.rstrip("/").rpartition("/")[2]
        publish(source, made, texts, tolerance)
        bucket.upload(made)
    return f"published {target}"


def verify(path: str) -> str:
    """Check a version against its manifest. Returns one sentence. Raises PublishError."""
    with tempfile.TemporaryDirectory(prefix="antipode-verify-") as copy:
        version = open_version(
            GcsFiles(path) if is_gcs(path) else LocalFiles(Path(path)), Path(copy)
        )
        if not version.is_published:
            raise PublishError(
                f"{path} has no {manifest.NAME}: it was not published, or publishing did not finish"
            )
        version.read_everything()
        _check_loads(version)
    count = len(version.golden.prompts) if version.golden else 0
    return f"{path} is whole, with {count} golden prompts"


def make_golden(folder: Path, texts: tuple[str, ...], tolerance: float) -> Golden:
    """Golden prompts of these texts, continued by the checkpoint on this machine's devices."""
    from server.api.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    prompts = [tuple(tokenizer.encode(text)[:_NUM_PROMPT_TOKENS]) for text in texts]
    answers = _generate(folder, [prompt for prompt in prompts if prompt])
    return Golden(tolerance, tuple(map(GoldenPrompt, filter(None, prompts), answers)))


def _generate(folder: Path, prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The greedy continuation of every prompt, by the server's own engine."""
    from server.engine.device.model_runner import ModelRunner
    from server.engine.policy.sequences.sequence import LoadedVersion
    from server.engine.requests import OWN_CLIENT
    from server.versions.golden import GoldenClient

    version = LoadedVersion(folder.name)
    runner = ModelRunner.build(folder, _sizes(folder), version=version)
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


def _sizes(folder: Path) -> EngineConfig:
    """Where tokens see later ones, a step must hold a prompt and what follows it."""
    from models.huggingface.config_file import read_config

    config = read_config(folder)
    longest = min(_SIZES.max_model_len, config.max_position)
    step = longest if config.bidirectional else _SIZES.max_num_batched_tokens
    return replace(_SIZES, max_model_len=longest, max_num_batched_tokens=step)


def _engine_of(
    runner: ModelRunner, client: GoldenClient, version: LoadedVersion, queue_len: int
) -> Engine[Any]:
    """An engine without an API in front; `client` gets its answers."""
    from server.engine.engine import Engine
    from server.engine.policy.blocks.block_manager import BlockManager
    from server.engine.policy.blocks.snapshots import snapshots
    from server.engine.policy.data_ranks import Ranks
    from server.engine.policy.scheduler import Scheduler
    from server.engine.policy.served_versions import ServedVersions
    from server.engine.policy.step_choice import StepChoice
    from server.engine.policy.whole_prompt_choice import WholePromptChoice

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


def _copy(source: Path, partial: Path) -> None:
    """Copy a checkpoint directory, or convert a GGUF file."""
    if source.suffix == ".gguf":
        from models.gguf import convert

        convert(source, partial)
        (partial / manifest.NAME).unlink()
        return
    if not (source / "config.json").is_file():
        raise PublishError(f"{source} is neither a .gguf file nor a folder with a config.json")
    partial.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != manifest.NAME and not path.name.startswith("."):
            shutil.copyfile(path, partial / path.name)
    for name in module_files(source):
        if not (source / name).is_file():
            continue
        (partial / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, partial / name)


def _check_loads(version: VersionFolder) -> None:
    """Check the configuration, the tokenizer, and each tensor's presence and shape; no weights."""
    from models.huggingface.config_file import read_config
    from models.sharding import make_mesh
    from models.weights.loading import WeightLoader, abstract_decoder
    from server.api.tokenizers.tokenizer import Tokenizer
    from server.engine.programs.blueprint.blueprint import choose_layout

    Tokenizer.load(version.copy)
    config = read_config(version.copy)
    mesh = make_mesh(config, 1)
    platform = mesh.devices.flat[0].platform
    model = abstract_decoder(config, choose_layout(config, EngineConfig(), platform, 1))
    WeightLoader(model, mesh).check(version.checkpoint())


def _explained(act: Any) -> int:
    try:
        print(act())
    except (PublishError, ModelConfigError, ValueError, OSError) as error:
        print(f"antipode: {error}", file=sys.stderr)
        return 1
    return 0
