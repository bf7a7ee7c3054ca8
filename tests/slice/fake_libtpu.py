"""libtpu's monitoring service as recorded: the same names and messages, on a port of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from server.pb.libtpu import runtime_metric_pb2 as messages
from server.pb.libtpu import runtime_metric_pb2_grpc as services


class FakeLibtpu(services.RuntimeMetricServiceServicer):
    """Answers with `duty_cycles` (percent by chip), or once it is `released`."""

    def __init__(self, duty_cycles, is_slow=False):
        self.duty_cycles = duty_cycles
        self.asked = []
        self.released = threading.Event()
        if not is_slow:
            self.released.set()
        self.server = grpc.server(ThreadPoolExecutor(2))
        services.add_RuntimeMetricServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.stop(None).wait()

    def GetRuntimeMetric(self, request, context):
        self.asked.append(request.metric_name)
        self.released.wait(20)
        if request.metric_name != "tpu.runtime.tensorcore.dutycycle.percent":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such metric")
        metric = messages.TPUMetric(
            name=request.metric_name,
            metrics=[
                messages.Metric(
                    attribute=messages.Attribute(
                        key="device-id", value=messages.AttrValue(int_attr=chip)
                    ),
                    gauge=gauge,
                )
                for chip, gauge in self.duty_cycles.items()
            ],
        )
        return messages.MetricResponse(metric=metric)
