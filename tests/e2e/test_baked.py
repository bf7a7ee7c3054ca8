from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.servers import PROJECT, REAL, metric_of, plain_environment

SIZES = ("--max-num-seqs=2", "--max-num-batched-tokens=32", "--num-blocks=512", "--context=2048")


def bake(checkpoint, folder):
    """Plan for this machine and keep what was compiled; the flags of a server to match."""
    report = folder / "report.json"
    files = (f"--bake={folder}", f"--json={report}")
    subprocess.run(
        [sys.executable, "-m", "server", "plan", checkpoint, "--slice=cpu", *SIZES, *files],
        cwd=PROJECT,
        env=plain_environment(),
        capture_output=True,
        timeout=200,
        check=True,
    )
    return json.loads(report.read_text())["serve_flags"]


def test_a_server_started_from_a_baked_folder_compiles_nothing(start, checkpoint, tmp_path):
    folder = tmp_path / "baked"
    folder.mkdir()
    flags = bake(checkpoint, folder)
    server = start(REAL, *flags, f"--baked-dir={folder}", "--compile-cache-dir=").wait_ready()

    text = server.get("/metrics").text
    assert metric_of(text, "antipode_compilations_total") == 0
    said = server.logged("baked programs")["message"]
    assert said.startswith("baked programs: 6 loaded, 0 compiled")
    body = {"model": "toy", "prompt": "alpha", "max_tokens": 3, "ignore_eos": True}
    answer = server.post("/v1/completions", body)
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert server.metric("antipode_compilations_total") == 0
