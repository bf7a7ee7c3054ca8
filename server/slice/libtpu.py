"""Asks the TPU runtime for duty cycles, over the runtime's own gRPC service on this host.

Any failure gives an empty answer: numbers for people and dashboards must not disturb serving.
Asking often has crashed v6e nodes, so the caller decides how often to ask.
"""

from __future__ import annotations

import logging

import grpc

from server.pb.libtpu.runtime_metric_pb2 import Gauge, MetricRequest, MetricResponse
from server.pb.libtpu.runtime_metric_pb2_grpc import RuntimeMetricServiceStub

ADDRESS = "localhost:8431"
DUTY_CYCLE = "tpu.runtime.tensorcore.dutycycle.percent"
_TIMEOUT_SECONDS = 5.0

_log = logging.getLogger(__name__)


class LibtpuClient:
    """One channel to the runtime of this host. `timeout` limits each call, in seconds."""

    def __init__(self, address: str = ADDRESS, timeout: float = _TIMEOUT_SECONDS) -> None:
        # The runtime is on this machine, so a proxy set in the environment must not be used.
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._stub = RuntimeMetricServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._address, self._timeout = address, timeout
        self._is_silent = False

    def duty_cycles(self) -> dict[int, float]:
        """By chip, 0 to 1, over the runtime's own window; empty where the runtime has no answer."""
        request = MetricRequest(metric_name=DUTY_CYCLE)
        try:
            response: MetricResponse = self._stub.GetRuntimeMetric(request, timeout=self._timeout)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel has been closed.
            self._complain(error)
            return {}
        self._is_silent = False
        return {
            metric.attribute.value.int_attr: _number(metric.gauge) / 100
            for metric in response.metric.metrics
        }

    def close(self) -> None:
        """Close the channel; a call that is under way ends too."""
        self._channel.close()

    def _complain(self, error: Exception) -> None:
        """Log a failure once, until the runtime answers again."""
        if not self._is_silent:
            reason = error.code().name if isinstance(error, grpc.Call) else str(error)
            _log.warning("the TPU runtime at %s gives no duty cycles: %s", self._address, reason)
        self._is_silent = True


def _number(gauge: Gauge) -> float:
    return gauge.as_double if gauge.WhichOneof("value") == "as_double" else float(gauge.as_int)
