"""The metrics as OpenMetrics, read by the parser of Prometheus' own library."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from server.api.open_metrics import Exemplars, open_metrics
from server.metrics.metrics import Metrics
from server.metrics.snapshot import Snapshot

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def metrics():
    return Metrics(model="tiny", version="1", release="0")


def parsed(metrics, exemplars=None):
    text = open_metrics(metrics.render(Snapshot()), exemplars or Exemplars())
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def buckets_with_exemplars(family):
    return [s for s in family.samples if s.exemplar is not None]


def test_every_family_is_there_and_counters_have_their_short_names(metrics):
    families = parsed(metrics)
    assert families["antipode_requests"].type == "counter"
    assert {sample.name for sample in families["antipode_requests"].samples} == {
        "antipode_requests_total"
    }
    assert families.keys() == {family.name for family in metrics.collect()}


@pytest.mark.parametrize(
    "name", ["antipode_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"]
)
def test_a_traced_request_is_the_exemplar_of_its_bucket(metrics, name):
    metrics.on_first_token(0.3)
    exemplars = Exemplars()
    exemplars.observe("time_to_first_token", TRACE, 0.31)
    [bucket] = buckets_with_exemplars(parsed(metrics, exemplars)[name])
    assert bucket.labels["le"] == "0.5"
    assert bucket.exemplar.labels == {"trace_id": TRACE}
    assert bucket.exemplar.value == 0.31


def test_the_newest_request_of_a_bucket_is_taken(metrics):
    metrics.on_first_token(0.3)
    exemplars = Exemplars()
    for digit in "12":
        exemplars.observe("time_to_first_token", digit * 32, 0.3)
    [bucket] = buckets_with_exemplars(
        parsed(metrics, exemplars)["antipode_time_to_first_token_seconds"]
    )
    assert bucket.exemplar.labels == {"trace_id": "2" * 32}


def test_a_bucket_in_which_the_engine_counted_nothing_has_none(metrics):
    exemplars = Exemplars()
    exemplars.observe("time_to_first_token", TRACE, 0.3)
    families = parsed(metrics, exemplars)
    assert not buckets_with_exemplars(families["antipode_time_to_first_token_seconds"])


def test_a_request_without_a_trace_is_no_exemplar(metrics):
    metrics.on_finished("stop", 0.3, None)
    exemplars = Exemplars()
    exemplars.observe("request_duration", "", 0.3)
    families = parsed(metrics, exemplars)
    assert not buckets_with_exemplars(families["antipode_request_duration_seconds"])
