"""Rules of the protocols: OpenAI's streams as pickers scan them, Open Inference, VllmEngine."""

from __future__ import annotations

import grpc

from server.pb.inference import open_inference_pb2 as oip
from server.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from server.pb.vllm.grpc import vllm_engine_pb2 as vllm
from server.pb.vllm.grpc.vllm_engine_pb2_grpc import VllmEngineStub
from tests.conformance.calls import channel, completion, data_of, events, http
from tests.conformance.rules import Target, require, rule

_PICKER = "llm-d's openai-parser"
_OIP = "Open Inference Protocol v2"
_OPTIONS = {"max_tokens": 8, "temperature": 0, "seed": 1}


@rule("openai", "no event of a stream is split over two writes, and [DONE] is the last", _PICKER)
async def whole_events(target: Target) -> str:
    async with http(target) as client:
        chunks = await events(client, completion(target, stream=True, max_tokens=16))
    for chunk in chunks:
        require(chunk.endswith(b"\n\n") and chunk.startswith(b"data: "), repr(chunk[:60]))
    require(chunks[-1].rstrip().endswith(b"data: [DONE]"), repr(chunks[-1][-40:]))
    return f"{len(chunks)} writes"


@rule("openai", "the usage that a client asks for is the last event, with no choices", _PICKER)
async def usage(target: Target) -> str:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with http(target) as client:
        last = data_of(await events(client, completion(target, **options)))[-1]
    require(last.get("choices") == [] and bool(last.get("usage")), str(last)[:200])
    return str(last["usage"])


@rule("open inference", "the six calls of the protocol answer", _OIP)
async def six_calls(target: Target) -> str:
    async with channel(target) as open_channel:
        stub = GRPCInferenceServiceStub(open_channel)
        require((await stub.ServerLive(oip.ServerLiveRequest())).live, "not live")
        require((await stub.ServerReady(oip.ServerReadyRequest())).ready, "not ready")
        ready = await stub.ModelReady(oip.ModelReadyRequest(name=target.model))
        require(ready.ready, f"{target.model} is not ready")
        await stub.ServerMetadata(oip.ServerMetadataRequest())
        found = await stub.ModelMetadata(oip.ModelMetadataRequest(name=target.model))
        answer = await stub.ModelInfer(_request(target, raw=False))
    require(bool(found.inputs and found.outputs), "the model has no tensors")
    require(answer.model_name == target.model, answer.model_name)
    return f"{len(found.inputs)} inputs, {len(found.outputs)} outputs"


@rule("open inference", "raw and typed contents ask the same", _OIP)
async def raw_and_typed(target: Target) -> str:
    async with channel(target) as open_channel:
        stub = GRPCInferenceServiceStub(open_channel)
        answers = [await stub.ModelInfer(_request(target, raw=raw)) for raw in (True, False)]
    first, second = (answer.raw_output_contents[0] for answer in answers)
    require(first == second, f"{first!r} and {second!r}")
    return repr(first[4:])


@rule("open inference", "an unknown model is NOT_FOUND, and a wrong shape INVALID_ARGUMENT", _OIP)
async def statuses(target: Target) -> str:
    unknown, wrong = _request(target, raw=False), _request(target, raw=False)
    unknown.model_name = "no-such-model"
    wrong.inputs[0].shape[0] = 7
    expected = {"NOT_FOUND": unknown, "INVALID_ARGUMENT": wrong}
    async with channel(target) as open_channel:
        stub = GRPCInferenceServiceStub(open_channel)
        for code, request in expected.items():
            try:
                await stub.ModelInfer(request)
            except grpc.aio.AioRpcError as error:
                require(error.code().name == code, f"{error.code().name} in place of {code}")
            else:
                require(False, f"{code} was expected")
    return ", ".join(expected)


@rule("open inference", "a stream reports a request's error and goes on", "Triton")
async def stream_errors(target: Target) -> str:
    wrong, right = _request(target, raw=False), _request(target, raw=False)
    wrong.model_name = "no-such-model"

    async def requests():
        yield wrong
        yield right

    async with channel(target) as open_channel:
        call = GRPCInferenceServiceStub(open_channel).ModelStreamInfer(requests())
        found = [response async for response in call]
    errors = [response.error_message for response in found if response.error_message]
    require(len(errors) == 1 and len(found) > 1, f"{len(found)} responses, errors {errors}")
    return errors[0][:80]


@rule("open inference", 'over HTTP every error below /v2 is {"error": "text"}', "tritonclient")
async def http_errors(target: Target) -> str:
    async with http(target) as client:
        for method, path, status in (
            ("GET", "/v2/no/such/path", 404),
            ("GET", "/v2/models/no-such-model", 404),
            ("POST", f"/v2/models/{target.model}/infer", 400),
        ):
            answer = await client.request(method, path)
            require(answer.status_code == status, f"{path}: {answer.status_code}")
            error = answer.json().get("error")
            require(isinstance(error, str), f"{path}: {answer.text[:120]}")
    return "404, 404, 400"


@rule("open inference", "generate and generate_stream give the same text", "Triton")
async def generate(target: Target) -> str:
    path = f"/v2/models/{target.model}/generate"
    body = {"text_input": "Hello", "parameters": _OPTIONS}
    async with http(target) as client:
        whole = (await client.post(path, json=body)).json()["text_output"]
        answer = await client.post(f"{path}_stream", json=body)
    parts = "".join(str(each["text_output"]) for each in data_of([answer.content]))
    require(parts == whole, f"{parts!r} and {whole!r}")
    return repr(whole)


@rule("VllmEngine", "a stream has token counts where pickers read them", "llm-d's vllmgrpc-parser")
async def engine_stream(target: Target) -> str:
    request = vllm.GenerateRequest(
        text="Hello",
        stream=True,
        sampling_params=vllm.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True),
    )
    async with channel(target) as open_channel:
        found = [each async for each in VllmEngineStub(open_channel).Generate(request)]
    complete = found[-1].complete
    require(complete.completion_tokens == 6, f"completion_tokens {complete.completion_tokens}")
    require(complete.prompt_tokens > 0, "prompt_tokens 0")
    tokens = [token for each in found for token in each.chunk.token_ids]
    require(tokens == list(complete.output_ids), "chunks and the whole differ")
    return f"{len(found) - 1} chunks, finish reason {complete.finish_reason}"


@rule("VllmEngine", "the same prompt gives the same tokens in every protocol", "ours")
async def same_tokens(target: Target) -> str:
    options = vllm.SamplingParams(**_OPTIONS)
    async with http(target) as client:
        body = completion(target, return_token_ids=True, **_OPTIONS)
        openai = (await client.post("/v1/completions", json=body)).json()["choices"][0]["token_ids"]
        path = f"/v2/models/{target.model}/generate"
        body = {"text_input": "Hello", "parameters": _OPTIONS}
        inferred = (await client.post(path, json=body)).json()["output_ids"]
    async with channel(target) as open_channel:
        request = vllm.GenerateRequest(text="Hello", sampling_params=options)
        [found] = [each async for each in VllmEngineStub(open_channel).Generate(request)]
    engine = list(found.complete.output_ids)
    require(openai == inferred == engine, f"{openai}, {inferred}, {engine}")
    return f"{len(openai)} tokens"


def _request(target: Target, *, raw: bool) -> oip.ModelInferRequest:
    text = b"Hello"
    entry = oip.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    request = oip.ModelInferRequest(model_name=target.model)
    if raw:
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    else:
        entry.contents.bytes_contents.append(text)
    request.inputs.append(entry)
    for name, value in _OPTIONS.items():
        request.parameters[name].int64_param = value
    return request
