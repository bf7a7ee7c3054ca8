"""The whole of `make bench PEER=`, between two small servers."""

from __future__ import annotations

import json
import sys

from benchmarks import compare


def test_a_comparison_prints_ratios_and_writes_them_with_a_plot(
    small_server, tmp_path, monkeypatch, capsys
):
    flags = ["--ours", small_server, "--peer", small_server, "--out", str(tmp_path)]
    flags += ["--streams", "2", "--rates", "200", "--requests", "4", "--workload", "story"]
    monkeypatch.setattr(sys, "argv", ["compare", *flags])
    compare.main()
    printed = capsys.readouterr().out
    assert printed.count("| ratio of tokens/s |") == 2
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert {name: set(loads) for name, loads in found.items()} == {
        name: {"2 streams", "200/s"} for name in ("antipode", "peer")
    }
    rounds = found["antipode"]["2 streams"]
    assert [(one["requests"], one["tokens"]) for one in rounds] == [(4, 24), (4, 24)]
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
