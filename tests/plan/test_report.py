from __future__ import annotations

import json

import msgspec

from server.plan.report import MeshSize, Report, render, table
from tests.plan.reports import program, report


def as_json(value):
    return json.loads(msgspec.json.encode(value))


def test_the_names_of_the_json_are_those_that_scripts_read():
    data = as_json(report())
    assert {"fits", "two_versions_fit", "kv_tokens", "hbm_bytes_per_chip", "software"} < data.keys()
    assert {"weights", "kv", "temp", "total", "limit"} <= data["hbm_bytes_per_chip"].keys()
    of_both = {"context", "predicted_ms", "roofline_ms", "roofline_fraction"}
    assert {"batch", "tokens_per_s_per_chip"} | of_both <= data["decode"].keys()
    assert {"tokens", "tokens_per_s_per_chip"} | of_both <= data["prefill"].keys()
    assert {
        "kind", "bucket", "compile_s", "temp_bytes", "alias_bytes", "pool_alias_bytes", "cycles",
        "pallas_calls", "collective_bytes",
    } <= data["programs"][0].keys()  # fmt: skip
    assert data["software"].keys() == {"jax", "jaxlib", "libtpu"}


def test_the_json_reads_back_as_the_report():
    assert msgspec.json.decode(msgspec.json.encode(report()), type=Report) == report()


def test_a_refusal_has_the_same_names():
    assert as_json(report(fits=False, decode=None)).keys() == as_json(report()).keys()


def test_what_fits_is_said_with_its_kv_and_the_flags_to_serve_it():
    text = render(report())
    assert "fits: 130,944 tokens of KV, 63 sequences of 2,048 tokens at once (64 asked for)" in text
    assert "two versions of the weights fit" in text
    assert "antipode serve --model llama --max-num-seqs 64" in text
    assert "- host and dispatch time" in text


def test_what_is_computed_otherwise_than_the_checkpoint_says_is_said_either_way():
    for fits in (True, False):
        assert "\nits float16 becomes bfloat16\n" in render(
            report(fits=fits, notes=["its float16 becomes bfloat16"])
        )


def test_what_does_not_fit_is_said_with_what_would():
    reason, change = "5.30 GiB per chip are missing", "--weight-dtype int8"
    text = render(report(fits=False, reason=reason, nearest_change=change, programs=[]))
    assert "does not fit: 5.30 GiB per chip are missing\n" in text
    assert "nearest change that fits: --weight-dtype int8\n" in text
    assert "antipode serve" not in text


def test_two_versions_that_do_not_fit_are_said_too():
    assert "two versions of the weights do not fit" in render(report(two_versions_fit=False))


def test_servers_beside_each_other_are_counted():
    text = render(report(mesh=MeshSize(data=2, tensor=2)))
    assert text.startswith(
        "llama on v6e:2x2: 4 chips, 1 host; tensor parallel 2, 2 data ranks of 2 "
    )


def test_a_chip_of_two_devices_is_counted_once_and_said():
    text = render(report(slice="v7x:2x2x1", devices=8, devices_per_chip=2))
    assert text.startswith("llama on v7x:2x2x1: 4 chips of 2 devices; below, each device is called")
    assert render(report(devices=1)).startswith("llama on v6e:2x2: 1 chip, 1 host;")


def test_every_program_has_a_line():
    lines = render(report(programs=[program(), program("decode-8")])).splitlines()
    (line,) = (one for one in lines if one.startswith("decode-64"))
    cells = ["12.3", "6.5", "4,010", "4,000", "6,000", "33", "68", "51.0"]
    assert line.split() == ["decode-64", *cells]


def test_a_table_aligns_names_left_and_numbers_right():
    assert table(["a", "bb"], [["long", "1"], ["x", "234"]]) == [
        "a      bb",
        "long    1",
        "x     234",
    ]
