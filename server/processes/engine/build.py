"""Builds a ready runner from the settings, on one host or with the other hosts of its slice.

JAX is imported here, after the environment variables that it reads are set. Nothing here serves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as release_of
from typing import TYPE_CHECKING, Any, Protocol

from server.adapters.manager import AdapterStore
from server.config.engine_config import EngineConfig
from server.engine.device.locked_memory import raise_locked_memory
from server.engine.engine import Runner
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.image_admission import ReadableImage
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.speculation import DraftRoom
from server.hosts import messages
from server.hosts.gathering import Followers, GroupListener, gather
from server.hosts.jax_group import join_jax
from server.hosts.joining import Leader
from server.processes.engine.compilation_cache import set_compilation_cache
from server.slice.discovery import ask_jax, find_slice
from server.slice.group_secret import read_group_secret
from server.slice.host_group import Group, GroupError, HostLink, find_group
from server.slice.interfaces import claimed, read_interfaces
from server.slice.jax_platform import choose_platform, has_tpu
from server.slice.resolve import Slice
from server.start_clock import StartPhase
from server.versions.served_model import find_model
from server.versions.version import VersionLoader

if TYPE_CHECKING:
    from server.engine.device.executor import Executor
    from server.versions.checkpoint_loader import CheckpointLoader

_log = logging.getLogger(__name__)


class StartListener(Protocol):
    """Receives the progress of a host's start, from the building thread."""

    def on_phase(self, phase: StartPhase) -> None:
        """A phase begins, and the one before is over."""

    def on_progress(self, detail: str, progress: float) -> None:
        """`detail` is what the phase does now; `progress` is how much of it is done, 0 to 1."""

    def on_slice(self, found: Slice) -> None: ...


class BuildListener(StartListener, GroupListener, Protocol):
    """On the host that serves: also receives the events of its group."""

    def on_compilation(self) -> None:
        """A program was compiled, during start-up or later. Followers compile the same programs."""

    def on_cache_hit(self) -> None:
        """A program came from JAX's compilation cache; `on_compilation` follows."""

    def on_links(self, links: tuple[HostLink, ...]) -> None:
        """All hosts are here; `links` are the connections to them."""


class ServingRunner(Runner[Any], Protocol):
    """A runner that is loaded and warm, and the properties that the policy above it needs."""

    @property
    def max_model_len(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def is_bidirectional(self) -> bool:
        """Whether a token sees later ones, so that a step must hold all of a prompt."""

    @property
    def num_snapshots(self) -> int | None:
        """How many recurrent states are kept for prefixes; None where no layer has a state."""

    @property
    def readable_image(self) -> ReadableImage | None:
        """What an image must be for the model to read it; None where it reads none."""

    @property
    def num_ranks(self) -> int:
        """Data ranks. Each has the blocks of `kinds` and its own `max_num_batched_tokens`."""

    @property
    def kinds(self) -> tuple[KVKind, ...]:
        """The kinds of layers. If one has no window, it comes first."""

    @property
    def block_size(self) -> int: ...

    @property
    def max_num_batched_tokens(self) -> int: ...

    @property
    def num_host_blocks(self) -> tuple[int, ...]:
        """Blocks of each kind that are kept in host memory; () is none."""

    @property
    def draft_rooms(self) -> tuple[DraftRoom, ...]:
        """The sizes of steps with drafts; none without speculation."""


@dataclass(frozen=True, slots=True)
class Built:
    """A ready runner, the loader of other versions for it, and the function to call at the end.

    `adapters` is None for a runner without slots for adapters. Call `close` only after a step loop
    that ended well.
    """

    runner: ServingRunner
    loader: VersionLoader[Any]
    adapters: AdapterStore[Any] | None = None
    close: Callable[[], None] = lambda: None


class RunnerBuilder(Protocol):
    """Loads and warms up a runner. Raises ValueError, OSError or GroupError where it cannot."""

    def __call__(self, config: EngineConfig, listener: BuildListener) -> Built: ...


def build_model_runner(config: EngineConfig, listener: BuildListener) -> Built:
    """The default builder. Raises as `Executor.build` does, SliceMismatchError or GroupError."""
    group = find_group(config, os.environ)
    if group.is_several:
        return _build_leading(config, group, listener)
    listener.on_progress("importing JAX", 0.0)
    prepare_jax(config, listener.on_compilation, listener.on_cache_hit)
    listener.on_slice(find_slice(config, ask_jax()))
    from server.engine.device.model_runner import ModelRunner

    executor = _build_executor(config, find_model(config).version, listener)
    runner = ModelRunner(executor.blueprint, executor)
    return Built(runner, checkpoint_loader(executor, config), executor.adapters)


def build_following(leader: Leader, group: Group, listener: StartListener) -> Executor:
    """A follower's executor, with the leader's settings."""
    config = leader.config
    prepare_jax(config)
    join_jax(group, config, leader.address)
    listener.on_slice(find_slice(config, ask_jax()))

    def agree(chip_bytes: int | None) -> int | None:
        leader.send(messages.Facts(chip_bytes=chip_bytes))
        return leader.hear_one(messages.Agreed).chip_bytes

    return _build_executor(config, leader.version, listener, agree)


def unexplained(error: Exception) -> Exception | None:
    """None where the message says all: it cannot be served. Else the error, a bug, to be traced."""
    return None if isinstance(error, ValueError | OSError | GroupError) else error


def checkpoint_loader(executor: Executor, config: EngineConfig) -> CheckpointLoader:
    """The loader that puts other versions next to the executor's first, or in its place."""
    from server.versions.checkpoint_loader import CheckpointLoader

    return CheckpointLoader(
        executor.weights,
        executor.tokenizer_sums,
        config.swap_host_memory_bytes,
        read_timeout=config.swap_read_timeout_seconds,
    )


def software() -> str:
    """The software that must be the same on every host, so that their programs are the same."""
    return f"antipode {release_of('antipode-server')} with jax {release_of('jax')}"


def prepare_jax(
    config: EngineConfig,
    on_compilation: Callable[[], None] = lambda: None,
    on_cache_hit: Callable[[], None] = lambda: None,
) -> None:
    """Import JAX with its settings, and report its compilations and those its cache has saved."""
    choose_platform(os.environ)
    if has_tpu():
        raise_locked_memory()
    set_compilation_cache(config)
    import jax

    def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            on_compilation()

    def on_event(event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            on_cache_hit()

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)


def _build_leading(config: EngineConfig, group: Group, listener: BuildListener) -> Built:
    version = find_model(config).version
    listener.on_phase("hosts")
    followers = _gather(config, group, version, listener)
    listener.on_phase("import")
    try:
        prepare_jax(config, listener.on_compilation, listener.on_cache_hit)
        join_jax(group, config, followers.meeting_address)
        listener.on_slice(find_slice(config, ask_jax()))
        return _lead(config, version, followers, listener)
    except Exception as error:
        followers.end(f"host 0 failed: {error}")
        raise


def _gather(config: EngineConfig, group: Group, version: str, listener: BuildListener) -> Followers:
    def on_progress(num_here: int) -> None:
        listener.on_progress(
            f"waiting for hosts, {num_here} of {group.size} are here", num_here / group.size
        )

    addresses = tuple(each.address for each in claimed(read_interfaces()) if each.address)
    welcome = messages.Welcome(config=config, version=version, addresses=addresses)
    secret = read_group_secret(config, group)
    followers = gather(group, secret, welcome, software(), on_progress, listener)
    followers.start(config.group_timeout_seconds)
    listener.on_links(followers.links)
    return followers


def _lead(
    config: EngineConfig, version: str, followers: Followers, listener: BuildListener
) -> Built:
    from server.engine.device.model_runner import ModelRunner
    from server.hosts.replication import LeadingExecutor, LeadingLoader, settle

    def agree(chip_bytes: int | None) -> int | None:
        facts = followers.hear(messages.Facts).values()
        least = min((b for b in (chip_bytes, *(f.chip_bytes for f in facts)) if b), default=None)
        followers.send(messages.Agreed(chip_bytes=least))
        return least

    executor = _build_executor(config, version, listener, agree)
    settle(executor, followers)
    leading = LeadingExecutor(executor, followers)
    loader = LeadingLoader(checkpoint_loader(executor, config), followers)
    return Built(ModelRunner(executor.blueprint, leading), loader, close=followers.stop)


def _build_executor(
    config: EngineConfig,
    version: str,
    listener: StartListener,
    agree: Callable[[int | None], int | None] = lambda chip_bytes: chip_bytes,
) -> Executor:
    """This host's executor, with the model that is served first."""
    from models.checkpoint.location import files_of
    from server.engine.device.executor import Executor

    executor = Executor.build(
        files_of(config.model),
        config,
        listener.on_progress,
        LoadedVersion(version),
        agree,
        listener.on_phase,
    )
    if not executor.weights_digest:
        _log.warning("%s has no antipode.json, so none of its files is verified", config.model)
    return executor
