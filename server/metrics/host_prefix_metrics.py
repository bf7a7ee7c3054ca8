"""What Prometheus is shown of prefixes in host memory.

All of it is read from the ledger of blocks; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.engine.policy.blocks.host_pool import HostPrefixes


def host_prefix_metrics(host: HostPrefixes) -> Iterator[Metric]:
    """Zeros on a server that keeps no prefixes in host memory."""
    for name, description, value in (
        (
            "host_prefix_cache_hit_tokens",
            "Tokens whose KV came back from host memory, after preemptions too.",
            host.num_restored_tokens,
        ),
        ("host_prefix_cache_saved_blocks", "KV blocks copied to host memory.", host.num_saved),
        (
            "host_prefix_cache_restored_blocks",
            "KV blocks copied back from host memory.",
            host.num_restored,
        ),
        (
            "host_prefix_cache_refused_blocks",
            "KV blocks lost because all places of the host waited for their copy.",
            host.num_refused,
        ),
    ):
        yield CounterMetricFamily(f"antipode_{name}", description, value)
    yield GaugeMetricFamily(
        "antipode_host_prefix_cache_usage_ratio",
        "Part of the KV blocks in host memory that is in use, 0 to 1.",
        host.usage,
    )
