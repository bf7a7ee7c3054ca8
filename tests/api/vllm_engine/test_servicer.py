"""vllm.grpc.engine.VllmEngine, by the messages on the wire."""

import grpc
import pytest

from server.api.access.gatekeeper import Gatekeeper
from server.link.frames import Pulse
from server.link.status import EngineLoad
from server.pb.vllm.grpc import vllm_engine_pb2 as pb
from server.pb.vllm.grpc.vllm_engine_pb2_grpc import VllmEngineStub
from tests.api.access.keys import BEARER, BEARER_OF_LIMITED, two_keys
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, ids, serving, until

EOS = 262
TOKENS = [*ids("hello world"), EOS]
ANSWER = [[token_id] for token_id in TOKENS]
PROMPT = pb.TokenizedInput(input_ids=[5, 6, 7])


def request(**fields) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"tokenized": PROMPT, **fields})


async def responses(s, message: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return await collect(VllmEngineStub(s.channel).Generate(message))


async def test_a_stream_is_chunks_and_then_the_whole():
    async with serving(FakeEngine(ANSWER, step_seconds=0.002)) as s:
        *chunks, last = await responses(s, request(stream=True))
    assert [r.WhichOneof("response") for r in chunks] == ["chunk"] * len(chunks)
    tokens = [token_id for r in chunks for token_id in r.chunk.token_ids]
    assert tokens == list(last.complete.output_ids) == TOKENS
    assert sum(r.chunk.completion_tokens for r in chunks) == last.complete.completion_tokens
    assert (last.complete.finish_reason, last.complete.prompt_tokens) == ("stop", 3)


async def test_without_a_stream_each_choice_is_one_message():
    params = pb.SamplingParams(n=2, logprobs=1, prompt_logprobs=0)
    async with serving(FakeEngine(ANSWER)) as s:
        found = await responses(s, request(sampling_params=params))
    assert sorted(r.complete.index for r in found) == [0, 1]
    complete = found[0].complete
    assert list(complete.output_ids) == list(complete.output_logprobs.token_ids) == TOKENS
    assert not complete.input_logprobs.token_logprobs[0].HasField("value")
    assert list(complete.input_logprobs.token_ids) == [5, 6, 7]


async def test_zeros_stand_for_unset():
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s:
        await responses(s, request(sampling_params=pb.SamplingParams()))
        await responses(s, request(sampling_params=pb.SamplingParams(temperature=0, top_p=0.5)))
    first, second = (each.params for each in engine.submitted)
    assert (first.temperature, first.top_p, first.repetition_penalty) == (1, 1, 1)
    assert (second.temperature, second.top_p) == (0, 0.5)
    assert engine.submitted[0].n == 1


async def test_a_matched_stop_string_is_named():
    params = pb.SamplingParams(stop=["lo w"])
    async with serving(FakeEngine(ANSWER)) as s:
        [found] = await responses(s, request(sampling_params=params))
    assert found.complete.matched_stop_str == "lo w"


async def test_abort_ends_a_request_by_its_id():
    engine = FakeEngine()
    async with serving(engine) as s:
        stub = VllmEngineStub(s.channel)
        call = stub.Generate(request(request_id="mine", stream=True))
        await until(lambda: engine.submitted)
        engine.emit([5])
        assert (await call.read()).chunk.token_ids == [5]
        await stub.Abort(pb.AbortRequest(request_ids=["other", "mine"]))
        [*_, last] = await collect(call)
    assert last.complete.finish_reason == "abort"
    assert [entry[2] for entry in engine.aborted] == ["abort"]


async def test_abort_ends_no_request_of_another_key(tmp_path):
    """Both callers chose the same id, and either knows it."""
    engine = FakeEngine()
    gatekeeper = Gatekeeper(keys=two_keys(tmp_path))
    search, batch = tuple(BEARER.items()), tuple(BEARER_OF_LIMITED.items())
    async with serving(engine, gatekeeper=gatekeeper) as s:
        stub = VllmEngineStub(s.channel)
        call = stub.Generate(request(request_id="same", stream=True), metadata=search)
        await until(lambda: engine.submitted)
        engine.emit([5])
        assert (await call.read()).chunk.token_ids == [5]
        await stub.Abort(pb.AbortRequest(request_ids=["same"]), metadata=batch)
        engine.emit([6])
        assert (await call.read()).chunk.token_ids == [6]
        await stub.Abort(pb.AbortRequest(request_ids=["same"]), metadata=search)
        [*_, last] = await collect(call)
    assert last.complete.finish_reason == "abort"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (pb.GenerateRequest(), "no input"),
        (request(data_parallel_rank=0), "chooses the data rank itself"),
        (request(kv_transfer_params_json='{"a": 1}'), "moves no KV cache"),
        (
            request(sampling_params=pb.SamplingParams(truncate_prompt_tokens=5)),
            "shorten the prompt",
        ),
        (
            # Field 7 is mm_inputs.
            pb.GenerateRequest.FromString(request().SerializeToString() + b"\x3a\x00"),
            "field 7 of vllm.grpc.engine.GenerateRequest",
        ),
    ],
)
async def test_what_would_change_the_answer_is_refused(message, sentence):
    async with serving(FakeEngine(ANSWER)) as s:
        error = await failure(VllmEngineStub(s.channel).Generate(message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in error.details()


async def test_an_embedding_has_its_size_and_the_prompts():
    async with serving(FakeEngine(ANSWER)) as s:
        found = await VllmEngineStub(s.channel).Embed(pb.EmbedRequest(tokenized=PROMPT))
    assert found.embedding_dim == len(found.embedding) > 0
    assert found.prompt_tokens == 3


async def test_model_and_server_describe_themselves():
    engine = FakeEngine(ANSWER)
    load = EngineLoad(num_running=2, num_waiting=1, num_slots=8, kv_cache_usage=0.5)
    engine.pulse = Pulse(state="ready", load=load)
    async with serving(engine) as s:
        stub = VllmEngineStub(s.channel)
        assert (await stub.HealthCheck(pb.HealthCheckRequest())).healthy
        model = await stub.GetModelInfo(pb.GetModelInfoRequest())
        server = await stub.GetServerInfo(pb.GetServerInfoRequest())
        [loads] = (await stub.GetLoads(pb.GetLoadsRequest())).loads
    assert (model.served_model_name, model.vocab_size, model.is_generation) == ("small", 266, True)
    assert (server.active_requests, server.max_num_seqs) == (3, 8)
    assert (loads.num_running_reqs, loads.token_usage, loads.utilization) == (2, 0.5, 0.5)


async def test_health_is_that_of_the_probes():
    async with serving(FakeEngine(ANSWER)) as s:
        s.lifecycle.begin_drain()
        answer = await VllmEngineStub(s.channel).HealthCheck(pb.HealthCheckRequest())
    assert not answer.healthy
    assert "shutting down" in answer.message
