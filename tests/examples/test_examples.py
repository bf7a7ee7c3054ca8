"""Every example, run as its first lines say, against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.api.images.pictures import png
from tests.e2e.servers import PROJECT, RunningServer, first_free_port

EXAMPLES = PROJECT / "examples"
NODE_PACKAGES = EXAMPLES / "node_modules"
SCRIPTS = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".sh", ".py", ".mjs"))


def command_of(name: str) -> list[str]:
    """What runs the example. A test whose runner is not on this machine is skipped."""
    if name.endswith(".py"):
        return [sys.executable, name]
    program = "node" if name.endswith(".mjs") else "bash"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on this machine")
    if program == "node" and not NODE_PACKAGES.is_dir():
        pytest.skip("`make examples` installs what the JavaScript examples import")
    return [program, name]


def without_proxies() -> dict[str, str]:
    """This process's environment: what an example asks is on this machine."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@pytest.fixture
def run(server):
    """Run an example by its name and return what it prints."""

    return partial(run_on, server)


def run_on(server: RunningServer, name: str, **environment: str) -> str:
    addresses = {
        "ANTIPODE_HTTP": server.http,
        "ANTIPODE_GRPC": server.grpc,
        "ANTIPODE_SERVERS": f"grpc://{server.grpc},{server.http}",
    }
    done = subprocess.run(
        command_of(name),
        cwd=EXAMPLES,
        env=without_proxies() | addresses | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl_reads_readiness_a_chat_and_a_stream(run):
    readiness, chat, *events = run("curl.sh").split("\n", 2)
    assert "ready" in readiness
    assert json.loads(chat)["choices"][0]["message"]["content"]
    assert events[0].count("data: {") >= 1
    assert events[0].rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("name", ["openai_python.py", "openai_node.mjs"])
def test_the_openai_client_reads_a_whole_and_a_streamed_chat(run, name):
    whole, _, streamed = run(name).partition("\n")
    assert whole.strip() or streamed.strip()


def test_the_openai_clients_of_both_languages_print_the_same(run):
    assert run("openai_python.py") == run("openai_node.mjs")


def test_the_client_streams_from_the_first_of_two_addresses(run):
    text, told = run("client_sync.py").rsplit("\nseed ", 1)
    assert text.strip()
    assert re.fullmatch(r"\d+, model version \d+\nretries 0, resumptions 0\n", told)


def test_the_client_takes_the_second_address_where_the_first_does_not_answer(run, server):
    nobody = f"http://127.0.0.1:{first_free_port()}"
    told = run("client_sync.py", ANTIPODE_SERVERS=f"{nobody},{server.http}")
    assert "retries 1, resumptions 0" in told


def test_the_asynchronous_client_prints_an_answer_for_each_question(run):
    answers = run("client_async.py")
    for question in ("What is the capital of France?", "Who wrote Faust?", "What is 2 + 2?"):
        assert f"{question} " in answers


def test_both_clients_in_python_print_the_same_about_a_picture(image_server, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    printed = run_on(image_server, "images_python.py", ANTIPODE_IMAGE=str(path))
    answer, again = printed[: len(printed) // 2], printed[len(printed) // 2 :]
    assert answer.strip()
    assert answer == again


def test_grpc_from_the_public_proto_file_counts_its_tokens(run):
    assert re.search(r"\n\(\d+ tokens\)\n$", run("grpc_python.py"))


def test_grpc_in_two_languages_gives_the_same_text(run):
    in_python = run("grpc_python.py").rpartition("\n(")[0]
    assert run("grpc_node.mjs").rstrip("\n") == in_python.rstrip("\n")


def test_reflection_lists_the_services_and_calls_one(run):
    services, _, answer = run("grpc_by_reflection.py").partition("\n")
    heading, *names = services.split()
    assert heading == "services:"
    assert sorted(names) == [
        "antipode.v1.Generation",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "vllm.grpc.engine.VllmEngine",
        "xds.service.orca.v3.OpenRcaService",
    ]
    assert answer.strip()


def test_every_example_is_listed_and_run():
    listed = re.findall(r"examples/(\S+\.(?:sh|py|mjs))`", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == SCRIPTS
    tests = Path(__file__).read_text()
    assert [name for name in SCRIPTS if f'"{name}"' not in tests] == []
