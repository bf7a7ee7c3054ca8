"""Which settings a server cannot have together or with a model, each with the sentence for it.

Knows neither memory nor programs.
"""

from __future__ import annotations

from jax.sharding import Mesh

from models.config import ModelConfig
from models.sharding import data_size
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError


def check_compatible(config: ModelConfig, engine: EngineConfig, mesh: Mesh) -> None:
    """ConfigError for the first that is found."""
    _check_length(config, engine)
    _check_exact(engine, data_size(mesh))
    _check_adapters(engine, mesh)
    _check_speculation(engine, data_size(mesh))
    _check_host_prefixes(engine, mesh)
    _check_bidirectional(config, engine)
    _check_states(config, engine)


def _check_length(config: ModelConfig, engine: EngineConfig) -> None:
    # Positions that the model was not made for give answers that are wrong without a word.
    if engine.max_model_len > config.max_position:
        raise ConfigError(
            f"max_model_len is {engine.max_model_len}, but the model's config.json allows"
            f" {config.max_position} tokens (max_position_embeddings, stretched where YaRN does):"
            " lower it, or set it to 0 for as many as the model allows"
        )


def _check_exact(engine: EngineConfig, num_ranks: int) -> None:
    # One rank's chunks would bring the other ranks' decodes into the program of chunks.
    if engine.exact and num_ranks > 1:
        raise ConfigError(
            f"exact is true with {num_ranks} data ranks; it needs one: set data_parallel_size to 1"
        )


def _check_adapters(engine: EngineConfig, mesh: Mesh) -> None:
    if engine.max_loras and engine.exact:
        # The products of all slots are summed in one order, so the bits depend on the slot.
        raise ConfigError(
            "exact is true with max_loras above 0; a server can have only one of them"
        )
    if engine.max_loras and mesh.is_multi_process:
        raise ConfigError(
            "max_loras is above 0 on several hosts; adapters are served on one host only: merge the"
            " adapter into the model, or use a slice of one host"
        )


def _check_speculation(engine: EngineConfig, num_ranks: int) -> None:
    # All ranks run one bucket, and a rank that prefills would need another than one with drafts.
    if engine.speculation != "off" and num_ranks > 1:
        raise ConfigError(
            f"speculation is {engine.speculation} with {num_ranks} data ranks; it needs one: set "
            "data_parallel_size to 1, or speculation to off"
        )


def _check_host_prefixes(engine: EngineConfig, mesh: Mesh) -> None:
    """Followers would have to keep what host 0 decides; each rank would need places of its own."""
    if not engine.prefix_host_bytes:
        return
    if mesh.is_multi_process or data_size(mesh) > 1:
        raise ConfigError(
            f"prefix_host_bytes is {engine.prefix_host_bytes} on several hosts or data ranks; "
            "prefixes are kept in host memory on one host with one data rank only: set it to 0"
        )
    if not engine.prefix_caching:
        raise ConfigError(
            "prefix_host_bytes is set with prefix_caching false: nothing would be found again; set"
            " prefix_caching to true, or prefix_host_bytes to 0"
        )


def _check_bidirectional(config: ModelConfig, engine: EngineConfig) -> None:
    if not config.bidirectional:
        return
    for name, is_on in (("exact", engine.exact), ("speculation", engine.speculation != "off")):
        if is_on:
            raise ConfigError(
                f"{name} is for models that generate; this one makes embeddings only, since its "
                f"tokens see later tokens: turn {name} off"
            )


def _check_states(config: ModelConfig, engine: EngineConfig) -> None:
    """A state holds all tokens before it: none can be taken back, and none found again."""
    if config.recurrence is None:
        return
    if engine.speculation != "off":
        raise ConfigError(
            f"speculation is {engine.speculation}, but layers of this model have a recurrent state,"
            " from which wrong drafts cannot be taken back: set speculation to off"
        )
    if engine.max_loras:
        raise ConfigError(
            "max_loras is above 0, but layers of this model have a recurrent state, which no"
            " adapter changes yet: merge the adapter into the model, or set max_loras to 0"
        )
    if engine.prefix_host_bytes:
        raise ConfigError(
            f"prefix_host_bytes is {engine.prefix_host_bytes}, but layers of this model have a"
            " recurrent state, which is not kept in host memory: set prefix_host_bytes to 0"
        )
