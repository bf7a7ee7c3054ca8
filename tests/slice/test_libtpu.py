from __future__ import annotations

import logging
import time

import pytest

from server.pb.libtpu.runtime_metric_pb2 import DESCRIPTOR, Gauge
from server.slice.libtpu import LibtpuClient
from tests.slice.fake_libtpu import FakeLibtpu


@pytest.fixture
def client_of():
    clients = []

    def make(address, timeout=5.0):
        clients.append(LibtpuClient(address, timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_duty_cycles_are_percents_by_chip_under_the_recorded_name(client_of):
    with FakeLibtpu({0: Gauge(as_double=12.5), 3: Gauge(as_int=80)}) as libtpu:
        assert client_of(libtpu.address).duty_cycles() == {0: 0.125, 3: 0.8}
        assert libtpu.asked == ["tpu.runtime.tensorcore.dutycycle.percent"]


def test_the_service_is_the_one_libtpu_has():
    service = DESCRIPTOR.services_by_name["RuntimeMetricService"]
    assert service.full_name == "tpu.monitoring.runtime.RuntimeMetricService"
    numbers = {
        (message.name, field.name): field.number
        for message in DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert numbers == {
        ("MetricRequest", "metric_name"): 1,
        ("MetricResponse", "metric"): 1,
        ("TPUMetric", "name"): 1,
        ("TPUMetric", "metrics"): 3,
        ("Metric", "attribute"): 1,
        ("Metric", "gauge"): 3,
        ("Attribute", "key"): 1,
        ("Attribute", "value"): 2,
        ("AttrValue", "int_attr"): 3,
        ("Gauge", "as_double"): 1,
        ("Gauge", "as_int"): 2,
    }


def test_a_runtime_that_says_nothing_of_chips_has_none(client_of):
    with FakeLibtpu({}) as libtpu:
        assert client_of(libtpu.address).duty_cycles() == {}


def test_a_slow_runtime_is_given_up_after_the_timeout(client_of):
    with FakeLibtpu({0: Gauge(as_int=1)}, is_slow=True) as libtpu:
        started = time.monotonic()
        assert client_of(libtpu.address, timeout=0.2).duty_cycles() == {}
        assert time.monotonic() - started < 5


def test_a_runtime_that_is_not_there_is_said_once_and_again_after_it_was_back(client_of, caplog):
    caplog.set_level(logging.WARNING)
    with FakeLibtpu({0: Gauge(as_int=1)}, is_slow=True) as libtpu:
        client = client_of(libtpu.address, timeout=0.2)
        client.duty_cycles()
        client.duty_cycles()
        assert len(caplog.records) == 1
        assert "gives no duty cycles: DEADLINE_EXCEEDED" in caplog.text
        libtpu.released.set()
        patient = client_of(libtpu.address)
        assert patient.duty_cycles() == {0: 0.01}
    assert patient.duty_cycles() == {}
    assert len(caplog.records) == 2


def test_a_closed_client_knows_nothing(client_of):
    client = client_of("127.0.0.1:1")
    client.close()
    assert client.duty_cycles() == {}
