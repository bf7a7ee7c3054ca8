"""Makes the hosts of a slice one group of JAX's, by its coordinator on the port after the group's.

Knows neither what a step computes nor what the hosts say to each other.
"""

from __future__ import annotations

from server.config.engine_config import EngineConfig
from server.ports import address
from server.slice.host_group import Group, GroupError

# JAX ends a process without a log line when it finds a host lost, so the group must find it first.
_JAX_PATIENCE = 4
_EVERYWHERE = "0.0.0.0"


def join_jax(group: Group, config: EngineConfig, leader_address: str) -> None:
    """Join this process to JAX's group, so that JAX sees the devices of all hosts. GroupError.

    JAX's coordinator authenticates nobody, so on the leader it listens on `leader_address` only, or
    on all addresses where that is "".
    """
    import jax

    port = group.port + 1
    try:
        jax.distributed.initialize(
            coordinator_address=address(leader_address or "127.0.0.1", port),
            coordinator_bind_address=address(leader_address or _EVERYWHERE, port),
            num_processes=group.size,
            process_id=group.index,
            initialization_timeout=int(config.group_start_timeout_seconds),
            heartbeat_timeout_seconds=max(10, int(_JAX_PATIENCE * config.group_timeout_seconds)),
        )
    except jax.errors.JaxRuntimeError as error:
        raise GroupError(
            f"JAX's coordinator on port {port} of host 0 could not connect the hosts: {error}; free"
            " that port on host 0 and make it reachable, or choose another group_port"
        ) from error
