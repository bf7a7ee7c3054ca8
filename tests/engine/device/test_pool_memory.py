"""A new KV pool on CPU: its zeros take no memory of the machine before steps write there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from psutil import Process

from server.engine.device import executor


def test_a_new_pool_takes_memory_only_where_something_is_written():
    resident = Process().memory_info
    pools = [jnp.zeros((64, 1 << 18)), jnp.zeros((64, 1 << 18))]
    jax.block_until_ready(pools)
    full, place = resident().rss, pools[0].unsafe_buffer_pointer()
    executor._return_zeros(pools)
    assert full - resident().rss > 100 << 20
    pools[0] = jax.jit(lambda pool: pool.at[3].set(1), donate_argnums=0)(pools[0])
    assert pools[0].unsafe_buffer_pointer() == place
    assert float(pools[0].sum()) == 1 << 18
    assert full - resident().rss > 100 << 20
