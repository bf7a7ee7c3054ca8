"""inference.GRPCInferenceService, by the messages on the wire."""

import asyncio
import struct

import grpc
import numpy as np
import pytest

from server.api.open_inference.tensors import from_raw
from server.link.frames import Pulse
from server.link.status import EngineLoad, Totals
from server.pb.inference import open_inference_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import ids, serving
from tests.api.open_inference.calling import each_of, error_of, request, stub, tensor, text

EOS = 262
ANSWER = [[token_id] for token_id in [*ids("hello world"), EOS]]


def outputs_of(response: pb.ModelInferResponse) -> dict:
    """The tensors of an answer by name, which are raw in every answer."""
    return {
        output.name: from_raw(output.name, output.datatype, list(output.shape), data)
        for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }


async def test_a_text_becomes_a_text():
    async with serving(FakeEngine(ANSWER)) as s:
        answer = await stub(s).ModelInfer(request(text("say hello"), id="mine", max_tokens=50))
    found = outputs_of(answer)
    assert (answer.model_name, answer.model_version, answer.id) == ("small", "1", "mine")
    assert found["text_output"].values == [b"hello world"]
    assert found["output_ids"].values == [*ids("hello world"), EOS]
    assert found["output_ids"].shape == (1, len(ANSWER))
    assert found["num_output_tokens"].values == [len(ANSWER)]
    assert found["num_input_tokens"].values == [len(ids("say hello"))]
    assert found["finish_reason"].values == [b"stop"]
    assert not any(output.HasField("contents") for output in answer.outputs)


@pytest.mark.parametrize("shape", [[9], [1, 9]])
async def test_token_ids_raw_and_typed_ask_the_same(shape):
    engine = FakeEngine(ANSWER)
    prompt = list(range(5, 14))
    typed = tensor("input_ids", "INT32", shape, int_contents=prompt)
    bare = pb.ModelInferRequest.InferInputTensor(name="input_ids", datatype="INT32", shape=shape)
    data = np.array(prompt, "<i4").tobytes()
    async with serving(engine) as s:
        await stub(s).ModelInfer(request(typed))
        await stub(s).ModelInfer(request(bare, raws=[data]))
    assert [each.prompt_token_ids for each in engine.submitted] == [prompt, prompt]


async def test_rows_and_texts_are_prompts_of_one_request():
    engine = FakeEngine(ANSWER)
    rows = tensor("input_ids", "INT64", [2, 2], int64_contents=[5, 6, 7, 8])
    async with serving(engine) as s:
        first = await stub(s).ModelInfer(request(rows, n=2))
        await stub(s).ModelInfer(request(text("a", "b")))
    assert [each.prompt_token_ids for each in engine.submitted[:2]] == [[5, 6], [7, 8]]
    assert outputs_of(first)["index"].values == [0, 1, 2, 3]
    assert outputs_of(first)["text_output"].shape == (4,)
    assert len(engine.submitted) == 4


async def test_options_come_as_json_parameters_and_tensors():
    engine = FakeEngine(ANSWER)
    json = tensor("sampling_parameters", "BYTES", [1], bytes_contents=[b'{"top_k": "5"}'])
    top_p = tensor("top_p", "FP32", [1], fp32_contents=[0.5])
    async with serving(engine) as s:
        await stub(s).ModelInfer(request(text("x"), json, top_p, temperature=0.25, seed=9))
    params = engine.submitted[0].params
    assert (params.top_k, params.top_p, params.temperature, params.seed) == (5, 0.5, 0.25, 9)
    assert params.max_tokens == 16


async def test_the_parameter_timeout_is_a_deadline_in_microseconds():
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s:
        await stub(s).ModelInfer(request(text("x"), timeout=60_000_000), timeout=600)
        await stub(s).ModelInfer(request(text("x")), timeout=600)
    first, second = (each.deadline for each in engine.submitted)
    assert first < second - 500


async def test_only_the_named_outputs_come():
    async with serving(FakeEngine(ANSWER)) as s:
        answer = await stub(s).ModelInfer(request(text("x"), outputs=["output_ids"]))
    assert [output.name for output in answer.outputs] == ["output_ids"]


async def test_the_input_is_repeated_if_asked():
    async with serving(FakeEngine(ANSWER)) as s:
        answer = await stub(s).ModelInfer(request(text("say "), exclude_input_in_output=False))
    assert outputs_of(answer)["text_output"].values == [b"say hello world"]


def elsewhere(kind: str) -> pb.ModelInferRequest:
    """Data next to the name of a region that would have other data."""
    message = request(text("x"), outputs=["text_output"])
    [tensor] = getattr(message, kind)
    tensor.parameters["shared_memory_region"].string_param = "r"
    return message


RAW = struct.pack("<I", 1) + b"x"
BARE = pb.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
INVALID = {
    "no prompt": (request(), "one of the inputs text_input and input_ids"),
    "both prompts": (
        request(text("x"), tensor("input_ids", "INT32", [1], int_contents=[5])),
        "one of the inputs",
    ),
    "unknown input": (request(text("x"), tensor("image", "INT8", [0])), "unexpected input 'image'"),
    "unknown output": (request(text("x"), outputs=["logits"]), "unexpected output 'logits'"),
    "input twice": (request(text("x"), text("y")), "'text_input' is given twice"),
    "raw and typed": (request(text("x"), raws=[RAW]), "send one of them"),
    "one raw for two": (request(BARE, BARE, raws=[RAW]), "has 1 entries for 2 inputs"),
    "half float typed": (
        request(tensor("top_p", "FP16", [1], fp32_contents=[1])),
        "FP16 travels only in raw_input_contents",
    ),
    "wrong contents": (
        request(tensor("input_ids", "INT32", [1], int64_contents=[1])),
        "has its elements in int_contents",
    ),
    "no text": (request(tensor("text_input", "INT32", [1], int_contents=[1])), "of BYTES"),
    "no UTF-8": (
        request(tensor("text_input", "BYTES", [1], bytes_contents=[b"\xff"])),
        "is not valid UTF-8",
    ),
    "sequence": (request(text("x"), sequence_id=1), "leave sequence_id out"),
    "beam": (request(text("x"), use_beam_search=True), "use_beam_search is not supported"),
    "an input elsewhere": (elsewhere("inputs"), "shared_memory_region is not supported"),
    "an output elsewhere": (elsewhere("outputs"), "shared_memory_region is not supported"),
    "an option twice": (
        request(
            text("x"),
            tensor("sampling_parameters", "BYTES", [1], bytes_contents=[b'{"n": 1, "n": 2}']),
        ),
        "n is given twice",
    ),
    "a flag twice": (
        request(text("x"), tensor("stream", "BOOL", [1], bool_contents=[True]), stream=False),
        "stream is given twice",
    ),
    "no model": (request(text("x"), model_name=""), "names no model"),
}


@pytest.mark.parametrize(("message", "sentence"), INVALID.values(), ids=INVALID)
async def test_a_request_out_of_the_protocol_is_refused(message, sentence):
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s:
        error = await error_of(stub(s).ModelInfer(message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in error.details()
    assert not engine.submitted


async def test_another_model_or_version_is_not_found():
    async with serving(FakeEngine(ANSWER)) as s:
        for fields in ({"model_name": "large"}, {"model_version": "7"}):
            error = await error_of(stub(s).ModelInfer(request(text("x"), **fields)))
            assert error.code() is grpc.StatusCode.NOT_FOUND
        ready = pb.ModelReadyRequest(name="small", version="7")
        assert not (await stub(s).ModelReady(ready)).ready


async def test_a_stream_answers_each_request_by_its_id_and_goes_on_after_an_error():
    requests = [
        request(text("x"), id="whole"),
        request(id="wrong"),
        request(text("x"), id="parts", stream=True),
    ]
    async with serving(FakeEngine(ANSWER, step_seconds=0.002)) as s:
        responses = [r async for r in stub(s).ModelStreamInfer(each_of(*requests))]
    by_id = {r.id: [] for r in requests}
    for response in responses:
        by_id[response.infer_response.id].append(response)
    [whole], [wrong], parts = by_id["whole"], by_id["wrong"], by_id["parts"]
    assert outputs_of(whole.infer_response)["text_output"].values == [b"hello world"]
    assert "one of the inputs" in wrong.error_message
    assert len(parts) > 1
    texts = [outputs_of(part.infer_response)["text_output"].values[0] for part in parts]
    assert b"".join(texts) == b"hello world"
    finals = [p.infer_response.parameters["triton_final_response"].bool_param for p in parts]
    assert finals == [False] * (len(parts) - 1) + [True]


async def test_a_stream_that_ends_early_aborts_its_requests():
    engine = FakeEngine()
    async with serving(engine) as s:
        call = stub(s).ModelStreamInfer(each_of(request(text("x"), stream=True)))
        reading = asyncio.ensure_future(call.read())
        async with asyncio.timeout(5):
            while not engine.submitted:
                await asyncio.sleep(0.005)
            engine.emit([5])
            await reading
            call.cancel()
            while not engine.aborted:
                await asyncio.sleep(0.005)


async def test_the_server_and_its_model_describe_themselves():
    async with serving(FakeEngine(ANSWER)) as s:
        calls = stub(s)
        assert (await calls.ServerLive(pb.ServerLiveRequest())).live
        assert (await calls.ServerReady(pb.ServerReadyRequest())).ready
        assert (await calls.ModelReady(pb.ModelReadyRequest(name="small"))).ready
        server = await calls.ServerMetadata(pb.ServerMetadataRequest())
        model = await calls.ModelMetadata(pb.ModelMetadataRequest(name="small"))
        config = (await calls.ModelConfig(pb.ModelConfigRequest(name="small"))).config
    assert server.name == "antipode"
    assert "model_repository" in server.extensions
    assert (model.name, list(model.versions)) == ("small", ["1"])
    assert {i.name: i.datatype for i in model.inputs}["text_input"] == "BYTES"
    assert config.model_transaction_policy.decoupled
    assert {i.name: i.data_type for i in config.input}["text_input"] == pb.TYPE_STRING
    assert all(i.optional for i in config.input)


async def test_readiness_is_that_of_the_probes():
    engine = FakeEngine(ANSWER)
    async with serving(engine) as s:
        s.lifecycle.begin_drain()
        assert not (await stub(s).ServerReady(pb.ServerReadyRequest())).ready
        assert not (await stub(s).ModelReady(pb.ModelReadyRequest(name="small"))).ready
        assert (await stub(s).ServerLive(pb.ServerLiveRequest())).live


async def test_statistics_are_the_engines_totals():
    engine = FakeEngine(ANSWER)
    totals = Totals(
        num_succeeded=3, succeeded_seconds=1.5, num_failed=1, num_steps=40, last_end=12.5
    )
    engine.pulse = Pulse(state="ready", load=EngineLoad(totals=totals))
    async with serving(engine) as s:
        answer = await stub(s).ModelStatistics(pb.ModelStatisticsRequest())
    [stats] = answer.model_stats
    assert (stats.inference_count, stats.execution_count, stats.last_inference) == (3, 40, 12500)
    assert stats.inference_stats.success.ns == 1_500_000_000
    assert stats.inference_stats.fail.count == 1
