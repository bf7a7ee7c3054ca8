from __future__ import annotations

import math
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.engine.observer import StepStats
from server.engine.policy.blocks.host_pool import HostPrefixes
from server.errors import ErrorKind
from server.metrics.metrics import OUTCOMES, Metrics
from server.metrics.snapshot import AdapterUse, Snapshot
from server.slice.chips import ChipUse

GATEWAY_NAMES = [
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:lora_requests_info",
]
VLLM_NAMES = [
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:prompt_tokens",
    "vllm:generation_tokens",
    "vllm:num_preemptions",
    "vllm:prefix_cache_hits",
    "vllm:prefix_cache_queries",
    "vllm:request_success",
]
OWN_NAMES = [
    "vllm:spec_decode_num_drafts",
    "vllm:spec_decode_num_draft_tokens",
    "vllm:spec_decode_num_accepted_tokens",
    "vllm:spec_decode_num_accepted_tokens_per_pos",
    "antipode_num_requests_waiting",
    "antipode_num_requests_running",
    "antipode_load_ratio",
    "antipode_kv_cache_usage_ratio",
    "antipode_cache_config_info",
    "antipode_time_to_first_token_seconds",
    "antipode_inter_token_latency_seconds",
    "antipode_time_per_output_token_seconds",
    "antipode_request_duration_seconds",
    "antipode_queue_duration_seconds",
    "antipode_prompt_tokens",
    "antipode_generated_tokens",
    "antipode_key_calls",
    "antipode_key_prompt_tokens",
    "antipode_key_generated_tokens",
    "antipode_prefix_cache_hit_tokens",
    "antipode_preemptions",
    "antipode_requests",
    "antipode_step_duration_seconds",
    "antipode_step_padding_ratio",
    "antipode_compilations",
    "antipode_compilations_after_ready",
    "antipode_compilation_cache_hits",
    "antipode_start_seconds",
    "antipode_host_prefix_cache_hit_tokens",
    "antipode_host_prefix_cache_saved_blocks",
    "antipode_host_prefix_cache_restored_blocks",
    "antipode_host_prefix_cache_refused_blocks",
    "antipode_host_prefix_cache_usage_ratio",
    "antipode_model_load_duration_seconds",
    "antipode_server_state",
    "antipode_draining",
    "antipode_step_age_seconds",
    "antipode_queue_stall_seconds",
    "antipode_device_busy_ratio",
    "antipode_build_info",
    "antipode_host_link_info",
    "antipode_slice_info",
    "antipode_network_interface_info",
    "antipode_chip_metrics_source",
    "antipode_hbm_used_bytes",
    "antipode_hbm_limit_bytes",
    "antipode_hbm_usage_ratio",
    "antipode_chip_duty_cycle_ratio",
    "antipode_chip_tensorcore_utilization_ratio",
    "antipode_tensorcore_utilization_ratio",
    "antipode_duty_cycle_ratio",
    "antipode_model_version_state",
    "antipode_model_version_serving",
    "antipode_model_version_load_ratio",
    "antipode_model_config_followed",
    "antipode_thread_faults",
    "antipode_model_swaps",
    "antipode_model_version_load_duration_seconds",
    "antipode_model_version_switch_duration_seconds",
]


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def metrics(clock):
    return Metrics(
        model="tiny",
        version="2",
        release="0.1.0",
        clock=clock,
        started=1.79e9,
        num_speculative_tokens=3,
    )


def step(**changes):
    stats = {
        "kind": "decode",
        "duration": 0.02,
        "num_tokens": 3,
        "num_padded_tokens": 4,
        "num_generated_tokens": 3,
        "inter_token_seconds": (0.02, 0.02),
    }
    return StepStats(**(stats | changes))


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def samples(metrics, gauges=None):
    """Every series of the rendered text: {(name, labels as sorted pairs): value}."""
    found = {}
    for family in families(metrics.render(gauges or Snapshot())).values():
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(metrics, name, gauges=None, **labels):
    return samples(metrics, gauges)[name, tuple(sorted(labels.items()))]


@pytest.mark.parametrize("name", [*GATEWAY_NAMES, *VLLM_NAMES, *OWN_NAMES])
def test_every_family_is_there_from_the_start(metrics, name):
    assert families(metrics.render(Snapshot()))[name].samples


def test_no_undocumented_family_is_rendered(metrics):
    assert set(families(metrics.render(Snapshot()))) == {*GATEWAY_NAMES, *VLLM_NAMES, *OWN_NAMES}


def test_at_the_start_everything_counted_is_zero(metrics):
    described = ("info", "_bucket", "server_state", "version_state", "config_followed")
    without_source = ("hbm", "duty_cycle", "tensorcore")
    for (name, labels), number in samples(metrics).items():
        is_other = any(word in name for word in (*described, *without_source))
        assert number == 0 or is_other, (name, labels)


def test_what_keys_use_is_counted_by_their_names(metrics):
    metrics.on_key_use("search", 5, 7)
    metrics.on_key_use("search", 1, 0)
    assert value(metrics, "antipode_key_calls_total", key="search") == 2
    assert value(metrics, "antipode_key_prompt_tokens_total", key="search") == 6
    assert value(metrics, "antipode_key_generated_tokens_total", key="search") == 7


def test_what_a_gateway_reads_is_one_series_a_name(metrics):
    for name in GATEWAY_NAMES:
        assert len(families(metrics.render(Snapshot()))[name].samples) == 1


def test_the_gateway_families_read_as_a_gateway_expects(metrics):
    gauges = Snapshot(
        state="ready",
        num_requests_waiting=3,
        num_requests_running=5,
        kv_cache_usage_ratio=0.25,
        num_blocks=4096,
        block_size=16,
    )
    text = metrics.render(gauges).decode()
    assert (
        '# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name="tiny"} 3.0\n'
        in text
    )
    assert 'vllm:num_requests_running{model_name="tiny"} 5.0\n' in text
    assert 'vllm:kv_cache_usage_perc{model_name="tiny"} 0.25\n' in text
    assert 'vllm:cache_config_info{block_size="16",num_gpu_blocks="4096"} 1.0\n' in text
    assert (
        'vllm:lora_requests_info{max_lora="0",running_lora_adapters="",waiting_lora_adapters=""}'
        " 1.79e+09\n"
    ) in text


def test_the_adapters_in_use_are_named_with_the_time_when_they_changed(metrics):
    def info(use):
        text = metrics.render(Snapshot(adapters=use)).decode()
        line = next(each for each in text.splitlines() if each.startswith("vllm:lora_requests_in"))
        labels, _, changed = line.rpartition(" ")
        return labels.removeprefix("vllm:lora_requests_info"), float(changed)

    before = time.time()
    labels, changed = info(AdapterUse(4, ("a", "b"), ("c",)))
    named = '{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters="c"}'
    assert labels == named
    assert changed >= before
    assert info(AdapterUse(4, ("a", "b"), ("c",))) == (named, changed)


def test_our_own_gauges_say_the_same(metrics):
    gauges = Snapshot(num_requests_waiting=3, num_requests_running=5, kv_cache_usage_ratio=0.5)
    assert value(metrics, "antipode_num_requests_waiting", gauges) == 3
    assert value(metrics, "antipode_num_requests_running", gauges) == 5
    assert value(metrics, "antipode_kv_cache_usage_ratio", gauges) == 0.5


def test_the_load_ratio_is_rendered(metrics):
    gauges = Snapshot(num_requests_running=2, num_slots=8)
    assert value(metrics, "antipode_load_ratio", gauges) == 0.25


def test_the_cache_series_is_replaced_not_added_when_the_pool_is_known(metrics):
    metrics.render(Snapshot())
    rendered = families(metrics.render(Snapshot(num_blocks=64, block_size=16)))
    labels = [sample.labels for sample in rendered["antipode_cache_config_info"].samples]
    assert labels == [{"block_size": "16", "num_blocks": "64"}]


def test_a_step_counts_its_tokens_duration_padding_and_gaps(metrics):
    metrics.on_step(step())
    metrics.on_step(step(kind="prefill", duration=0.2, num_generated_tokens=1))
    assert value(metrics, "antipode_generated_tokens_total") == 4
    assert value(metrics, "antipode_step_duration_seconds_count", kind="decode") == 1
    assert value(metrics, "antipode_step_duration_seconds_sum", kind="prefill") == 0.2
    assert value(metrics, "antipode_step_duration_seconds_count", kind="mixed") == 0
    assert value(metrics, "antipode_inter_token_latency_seconds_count") == 4
    assert value(metrics, "antipode_step_padding_ratio_sum") == 0.5


def test_a_step_that_says_nothing_of_padding_observes_none(metrics):
    metrics.on_step(step(num_padded_tokens=0))
    assert value(metrics, "antipode_step_padding_ratio_count") == 0


def test_a_request_is_counted_from_admission_to_its_end(metrics):
    metrics.on_admitted(0.5, 100, 64)
    metrics.on_first_token(0.75)
    metrics.on_finished("stop", 2.0, 0.125)
    assert value(metrics, "antipode_queue_duration_seconds_sum") == 0.5
    assert value(metrics, "antipode_prompt_tokens_total") == 100
    assert value(metrics, "antipode_prefix_cache_hit_tokens_total") == 64
    assert value(metrics, "antipode_time_to_first_token_seconds_sum") == 0.75
    assert value(metrics, "antipode_request_duration_seconds_sum") == 2
    assert value(metrics, "antipode_time_per_output_token_seconds_sum") == 0.125
    assert value(metrics, "antipode_requests_total", outcome="stop") == 1


def test_a_request_with_one_token_has_no_time_per_token(metrics):
    metrics.on_finished("length", 2.0, None)
    assert value(metrics, "antipode_time_per_output_token_seconds_count") == 0


def test_a_refusal_is_an_outcome_without_a_duration(metrics):
    metrics.on_refused("queue_full")
    assert value(metrics, "antipode_requests_total", outcome="queue_full") == 1
    assert value(metrics, "antipode_request_duration_seconds_count") == 0


def test_every_error_there_is_has_its_outcome_from_the_start(metrics):
    assert set(OUTCOMES) == {"stop", "length", "abort", *(kind.value for kind in ErrorKind)}
    for outcome in OUTCOMES:
        assert value(metrics, "antipode_requests_total", outcome=outcome) == 0


def test_preemptions_and_compilations_are_counted(metrics):
    metrics.on_preempted(2)
    metrics.on_compilation(is_ready=False)
    metrics.on_compilation(is_ready=True)
    metrics.on_cache_hit()
    assert value(metrics, "antipode_preemptions_total") == 2
    assert value(metrics, "antipode_compilations_total") == 2
    assert value(metrics, "antipode_compilations_after_ready_total") == 1
    assert value(metrics, "antipode_compilation_cache_hits_total") == 1


@pytest.mark.parametrize("state", ["starting", "ready", "draining"])
def test_exactly_one_state_is_on(metrics, state):
    found = {
        name: value(metrics, "antipode_server_state", Snapshot(state=state), state=name)
        for name in ("starting", "ready", "draining")
    }
    assert [name for name, number in found.items() if number] == [state]
    assert value(metrics, "antipode_draining", Snapshot(state=state)) == (state == "draining")


def test_the_rest_of_the_state_is_shown(metrics):
    gauges = Snapshot(
        step_age_seconds=3.0, model_load_seconds=12.5, start_seconds={"import": 2.5, "compile": 10}
    )
    assert value(metrics, "antipode_step_age_seconds", gauges) == 3
    assert value(metrics, "antipode_model_load_duration_seconds", gauges) == 12.5
    assert value(metrics, "antipode_start_seconds", gauges, phase="compile") == 10
    assert value(metrics, "antipode_start_seconds", gauges, phase="weights") == 0
    labels = {"release": "0.1.0", "model": "tiny", "version": "2"}
    assert value(metrics, "antipode_build_info", gauges, **labels) == 1


def test_prefixes_in_host_memory_are_shown(metrics):
    host = HostPrefixes(num_blocks=8, num_held=2, num_restored=3, num_restored_tokens=48)
    gauges = Snapshot(host_prefixes=host)
    assert value(metrics, "antipode_host_prefix_cache_hit_tokens_total", gauges) == 48
    assert value(metrics, "antipode_host_prefix_cache_restored_blocks_total", gauges) == 3
    assert value(metrics, "antipode_host_prefix_cache_usage_ratio", gauges) == 0.25


def test_chips_without_a_source_are_no_number_and_not_idle(metrics):
    found = samples(metrics)
    assert found["antipode_chip_metrics_source", (("kind", "hbm"),)] == 0
    assert found["antipode_chip_metrics_source", (("kind", "duty_cycle"),)] == 0
    assert found["antipode_chip_metrics_source", (("kind", "tensorcore_utilization"),)] == 0
    for name in ("hbm_usage_ratio", "duty_cycle_ratio", "tensorcore_utilization_ratio"):
        assert math.isnan(found[f"antipode_{name}", ()])
    nobody = (("chip", ""), ("host_index", ""))
    assert math.isnan(found["antipode_chip_duty_cycle_ratio", nobody])


def test_chips_are_shown_one_by_one_and_by_the_fullest_and_busiest(metrics):
    use = ChipUse(hbm_used={0: 8, 1: 16}, hbm_limit={0: 32, 1: 32}, duty_cycle={0: 0.5, 1: 0.25})
    other = ChipUse(hbm_used={0: 24}, hbm_limit={0: 32}, tensorcore_utilization={1: 0.3})
    gauges = Snapshot(chips={0: use, 1: other})

    def of(name, **labels):
        return value(metrics, f"antipode_{name}", gauges, **labels)

    assert of("chip_metrics_source", kind="hbm") == 1
    assert of("chip_metrics_source", kind="tensorcore_utilization") == 1
    assert of("hbm_used_bytes", host_index="0", device="1") == 16
    assert of("hbm_used_bytes", host_index="1", device="0") == 24
    assert of("hbm_limit_bytes", host_index="0", device="0") == 32
    assert of("chip_duty_cycle_ratio", host_index="0", chip="1") == 0.25
    assert of("chip_tensorcore_utilization_ratio", host_index="1", core="1") == 0.3
    assert of("hbm_usage_ratio") == 0.75
    assert of("duty_cycle_ratio") == 0.5
    assert of("tensorcore_utilization_ratio") == 0.3


def test_a_step_that_is_still_running_keeps_the_device_busy(metrics, clock):
    metrics.render(Snapshot())
    clock.now += 1
    metrics.render(Snapshot(), 1.0)
    clock.now += 1
    running = families(metrics.render(Snapshot(), 2.0))
    assert running["antipode_device_busy_ratio"].samples[0].value == 1
    metrics.on_step(step(duration=2.0))
    clock.now += 1
    assert value(metrics, "antipode_device_busy_ratio") == 0


def test_nothing_new_is_not_rendered_again(metrics):
    gauges = Snapshot(state="ready")
    first = metrics.render(gauges)
    assert metrics.render(Snapshot(state="ready")) is first
    metrics.on_first_token(0.1)
    assert metrics.render(gauges) is not first


def test_labels_are_escaped():
    metrics = Metrics(model='a"b\\c\nd', version="", release="0")
    assert value(metrics, "vllm:num_requests_running", model_name='a"b\\c\nd') == 0


def test_the_device_was_busy_for_a_part_of_the_last_second(metrics, clock):
    metrics.render(Snapshot())
    metrics.on_step(step(duration=0.5))
    clock.now += 1
    assert value(metrics, "antipode_device_busy_ratio") == 0.5
    clock.now += 1
    assert value(metrics, "antipode_device_busy_ratio") == 0


def test_observing_a_step_of_256_rows_costs_little(metrics):
    stats = step(inter_token_seconds=(0.02,) * 256)
    metrics.on_step(stats)
    fastest = min(_timed(metrics.on_step, stats) for _ in range(20))
    assert fastest < 0.001


def _timed(call, *arguments):
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def test_drafts_are_counted_by_their_place(metrics):
    metrics.on_step(step(drafts=((3, 2), (1, 0), (2, 1))))
    name = {"model_name": "tiny"}
    counts = {
        each: value(metrics, f"vllm:spec_decode_num_{each}_total", **name)
        for each in ("drafts", "draft_tokens", "accepted_tokens")
    }
    assert counts == {"drafts": 3, "draft_tokens": 6, "accepted_tokens": 3}
    per_place = [
        value(
            metrics,
            "vllm:spec_decode_num_accepted_tokens_per_pos_total",
            position=str(position),
            **name,
        )
        for position in range(3)
    ]
    assert per_place == [2, 1, 0]
