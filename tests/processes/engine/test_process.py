from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.config.engine_config import EngineConfig
from server.engine.policy.blocks.layer_kinds import KVKind
from server.link.frames import Abort, EngineInfo, Fatal, Pulse, Step, Submit
from server.link.framing import api_codec
from server.link.sampling import SamplingParams
from server.processes.engine.build import Built
from server.processes.engine.process import EngineProcess
from server.versions.served_model import ServedModel
from tests.engine.fakes import EOS, VOCAB_SIZE, FakeRunner, expected_tokens

CONFIG = EngineConfig(max_num_seqs=4, max_num_batched_tokens=16, block_size=4)


@dataclass(slots=True)
class ServingFakeRunner(FakeRunner):
    """A FakeRunner that says about itself what the process asks."""

    max_model_len: int = 64
    vocab_size: int = VOCAB_SIZE
    eos_token_ids: tuple[int, ...] = (EOS,)
    step_seconds: float = 0.0

    draft_rooms = ()  # Nothing verifies drafts.
    num_host_blocks = ()
    is_bidirectional = False
    num_snapshots = None
    readable_image = None

    def read(self, in_flight):
        time.sleep(self.step_seconds)
        return FakeRunner.read(self, in_flight)


def fake_runner(cls=ServingFakeRunner, **changes):
    sizes = {
        "kinds": (KVKind(None, 33),),
        "block_size": 4,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
    }
    return cls(**(sizes | changes))


class Builder:
    """Builds a fake runner when it is let go on, or raises what it is given."""

    def __init__(self, runner=None, error=None):
        self.runner = runner or fake_runner()
        self.error = error
        self.go_on = threading.Event()

    def __call__(self, config, listener):
        listener.on_phase("weights")
        listener.on_progress("loading weights", 0.25)
        listener.on_compilation()
        assert self.go_on.wait(10)
        if self.error:
            raise self.error
        return Built(self.runner, self.runner.loader)


class Client:
    """An API process's end; keeps every frame it was sent."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.codec = api_codec()
        self.buffer = bytearray()
        self.frames = []

    def send(self, frame):
        self.socket.sendall(self.codec.encode(frame))

    def wait_for(self, kind, where=lambda frame: True):
        """The next frame of that kind for which `where` holds; the others are dropped."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            while self.frames:
                frame = self.frames.pop(0)
                if isinstance(frame, kind) and where(frame):
                    return frame
            data = self.socket.recv(1 << 16)
            assert data, "the engine closed the connection"
            self.buffer += data
            self.frames += self.codec.feed(self.buffer)
        raise AssertionError(f"no such {kind.__name__} within 10 s")

    def is_at_end(self):
        while self.socket.recv(1 << 16):
            pass
        return True

    def submit(self, request_id=1, max_tokens=5, **changes):
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=3)
        frame = {"request_id": request_id, "prompt_token_ids": [1, 2, 3], "params": params}
        self.send(Submit(arrival=time.monotonic(), **(frame | changes)))
        return params

    def tokens(self, request_id=1):
        """All tokens of a request, and its last event."""
        token_ids = []
        while True:
            for event in self.wait_for(Step).events:
                if event.request_id != request_id:
                    continue
                token_ids += event.token_ids
                if event.finish_reason:
                    return token_ids, event


class Running:
    """An engine process's inside, run on a thread."""

    def __init__(self, path, builder, config, model=None):
        self.builder = builder
        self.path = path
        model = model or ServedModel(path.parent, "tiny", "7")
        self.process = EngineProcess(config, model, path)
        self.exit_code = None
        self.thread = threading.Thread(target=self._run)
        self.clients = []

    def _run(self):
        self.exit_code = self.process.run(self.builder)

    def start(self, *, ready=True):
        if ready:
            self.builder.go_on.set()
        self.thread.start()
        return self.connect()

    def connect(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                self.clients.append(Client(self.path))
                return self.clients[-1]
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.005)
        raise AssertionError("the engine does not listen")

    def end(self):
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.exit_code


@pytest.fixture
def run_engine(tmp_path):
    started = []

    def run(runner=None, error=None, config=CONFIG):
        started.append(Running(tmp_path / "engine.sock", Builder(runner, error), config))
        return started[-1]

    yield run
    for running in started:
        running.builder.go_on.set()
        if running.thread.is_alive():
            deadline = time.monotonic() + 10
            status = running.process.status
            while not (status.is_serving or status.is_draining) and time.monotonic() < deadline:
                time.sleep(0.005)
            running.process.command("stop")
        running.end()
        for client in running.clients:
            client.socket.close()


@pytest.fixture
def engine(run_engine):
    return run_engine()


def metric(pulse, name, **labels):
    for family in text_string_to_metric_families(pulse.metrics.decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"{name} is not there")


def is_ready(pulse):
    return pulse.state == "ready"


def test_an_engine_process_pulses_while_it_loads(engine):
    client = engine.start(ready=False)
    pulse = client.wait_for(Pulse, lambda pulse: pulse.progress > 0)
    assert (pulse.state, pulse.phase, pulse.detail) == ("starting", "weights", "loading weights")
    assert pulse.progress == 0.25
    assert metric(pulse, "antipode_start_seconds", phase="import") > 0
    assert pulse.progress_age == 0
    assert metric(pulse, "antipode_server_state", state="starting") == 1
    assert metric(pulse, "antipode_compilations_total") == 1
    assert metric(pulse, "antipode_compilations_after_ready_total") == 0
    assert metric(pulse, "vllm:num_requests_running", model_name="tiny") == 0


def test_an_engine_process_reports_what_it_serves_once_it_is_ready(engine):
    early = engine.start(ready=False)
    early.wait_for(Pulse)
    engine.builder.go_on.set()
    info = early.wait_for(EngineInfo)
    assert info == EngineInfo(
        model="tiny",
        version="7",
        max_model_len=64,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=(EOS,),
        max_num_seqs=4,
    )
    assert engine.connect().wait_for(EngineInfo) == info


@pytest.mark.parametrize(("exact", "num_cached_tokens"), [(False, 12), (True, 0)])
def test_an_engine_process_says_whether_it_is_exact_and_acts_so(
    run_engine, exact, num_cached_tokens
):
    client = run_engine(config=replace(CONFIG, exact=exact)).start()
    assert client.wait_for(EngineInfo).is_exact is exact
    # Blocks of 4 tokens are shared, but nothing shorter than a chunk of 16 if it is exact.
    prompt = [1, 2, 3] * 4 + [4]
    client.submit(request_id=1, prompt_token_ids=prompt)
    client.tokens(1)
    client.submit(request_id=2, prompt_token_ids=prompt)
    first = client.wait_for(Step).events[0]
    assert (first.request_id, first.num_cached_tokens) == (2, num_cached_tokens)


def test_an_engine_process_answers_requests(engine):
    client = engine.start()
    client.wait_for(EngineInfo)
    params = client.submit(max_tokens=6)
    token_ids, last = client.tokens()
    assert token_ids == expected_tokens([1, 2, 3], params)
    assert last.finish_reason == "length"


def test_clients_may_use_the_same_request_ids(engine):
    first, second = engine.start(), engine.connect()
    for client in (first, second):
        client.wait_for(EngineInfo)
    params = first.submit(max_tokens=6)
    second.submit(max_tokens=3)
    assert first.tokens()[0] == expected_tokens([1, 2, 3], params)
    assert second.tokens()[0] == expected_tokens([1, 2, 3], params)[:3]


def test_the_pulse_tells_the_load_and_the_metrics_follow(engine):
    client = engine.start()
    client.wait_for(EngineInfo)
    idle = client.wait_for(Pulse, is_ready)
    assert metric(idle, "antipode_cache_config_info", num_blocks="33", block_size="4") == 1
    assert metric(idle, "vllm:cache_config_info", num_gpu_blocks="33") == 1
    client.submit()
    client.tokens()
    pulse = client.wait_for(
        Pulse, lambda pulse: metric(pulse, "antipode_requests_total", outcome="length") == 1
    )
    assert pulse.num_unfinished == 0
    assert not pulse.queue_full
    assert metric(pulse, "antipode_generated_tokens_total") == 5
    assert metric(pulse, "antipode_kv_cache_usage_ratio") == 0
    assert metric(pulse, "antipode_model_load_duration_seconds") > 0


def test_an_abandoned_client_s_requests_are_aborted(run_engine):
    engine = run_engine(fake_runner(step_seconds=0.02))
    client = engine.start()
    client.wait_for(EngineInfo)
    other = engine.connect()
    client.submit(max_tokens=50)
    client.wait_for(Step)
    client.socket.close()
    pulse = other.wait_for(
        Pulse, lambda pulse: metric(pulse, "antipode_requests_total", outcome="abort") == 1
    )
    assert metric(pulse, "antipode_kv_cache_usage_ratio") == 0


def test_an_abort_ends_its_request_only(engine):
    client = engine.start()
    client.wait_for(EngineInfo)
    client.submit(request_id=1, max_tokens=60)
    client.submit(request_id=2, max_tokens=30)
    client.send(Abort(request_id=1))
    assert client.tokens(request_id=2)[1].finish_reason == "length"


def test_draining_is_shown_and_lets_the_engine_serve(engine):
    client = engine.start()
    client.wait_for(EngineInfo)
    engine.process.command("drain")
    pulse = client.wait_for(Pulse, lambda pulse: pulse.state == "draining")
    assert metric(pulse, "antipode_draining") == 1
    client.submit()
    assert client.tokens()[1].finish_reason == "length"


def test_stopping_ends_what_runs_with_an_error_and_exits_0(run_engine):
    engine = run_engine(fake_runner(step_seconds=0.02))
    client = engine.start()
    client.wait_for(EngineInfo)
    client.submit(max_tokens=50, n=4)
    client.wait_for(Step)
    engine.process.command("stop")
    ends = []
    while len(ends) < 4:
        ends += [event for event in client.wait_for(Step).events if event.finish_reason]
    assert {event.error for event in ends} == {"unavailable"}
    assert client.is_at_end()
    assert engine.end() == 0


def test_a_failing_step_is_told_to_everyone_and_exits_1(run_engine, caplog):
    class BrokenRunner(ServingFakeRunner):
        def read(self, in_flight):
            raise RuntimeError("the device is on fire")

    engine = run_engine(fake_runner(BrokenRunner))
    client, other = engine.start(), engine.connect()
    for each in (client, other):
        each.wait_for(EngineInfo)
    client.submit()
    for each in (client, other):
        assert each.wait_for(Fatal).message == "its step loop failed; the log says why"
        assert each.is_at_end()
    assert engine.end() == 1
    assert "the device is on fire" in caplog.text
    assert "Traceback" in caplog.text


def test_a_checkpoint_that_cannot_be_served_is_one_line_and_exit_1(run_engine, caplog):
    engine = run_engine(error=ValueError("model.safetensors is cut short: 10 bytes are missing"))
    client = engine.start(ready=False)
    client.wait_for(Pulse)
    engine.builder.go_on.set()
    message = "it could not start: model.safetensors is cut short: 10 bytes are missing"
    assert client.wait_for(Fatal).message == message
    assert engine.end() == 1
    assert "cannot start: model.safetensors is cut short" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_bug_at_the_start_leaves_its_traceback(run_engine, caplog):
    engine = run_engine(error=RuntimeError("no idea"))
    engine.start(ready=False).wait_for(Pulse)
    engine.builder.go_on.set()
    assert engine.end() == 1
    assert "Traceback" in caplog.text


def test_a_step_that_does_not_return_ages(run_engine):
    class HangingRunner(ServingFakeRunner):
        def read(self, in_flight):
            released.wait(10)
            return FakeRunner.read(self, in_flight)

    released = threading.Event()
    engine = run_engine(fake_runner(HangingRunner))
    client = engine.start()
    client.wait_for(EngineInfo)
    client.submit(max_tokens=1)
    aged = client.wait_for(Pulse, lambda pulse: pulse.progress_age > 0.3)
    assert aged.state == "ready"
    released.set()
    client.tokens()
    client.wait_for(Pulse, lambda pulse: pulse.progress_age < 0.3)
