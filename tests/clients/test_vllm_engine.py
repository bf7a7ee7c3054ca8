"""The generated client that routers of vLLM use, unchanged; and the same tokens as elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc

PROMPT = "Once upon a time"
MAX_TOKENS = 16


@pytest.fixture(scope="module")
def stub(grpc_address: str) -> Iterator[vllm_engine_pb2_grpc.VllmEngineStub]:
    with grpc.insecure_channel(grpc_address) as channel:
        yield vllm_engine_pb2_grpc.VllmEngineStub(channel)


def params(**options) -> pb.SamplingParams:
    return pb.SamplingParams(temperature=0, max_tokens=MAX_TOKENS, seed=1, **options)


def over_openai(server: str, prompt: str | list[int], model: str) -> dict:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "seed": 1,
        "return_token_ids": True,
    }
    return httpx.post(f"{server}/v1/completions", json=body, timeout=60).json()["choices"][0]


def test_the_same_prompt_gives_the_same_tokens_in_every_protocol(server, stub, model):
    openai = over_openai(server, PROMPT, model)
    prompt_ids = openai["prompt_token_ids"]
    request = pb.GenerateRequest(
        tokenized=pb.TokenizedInput(input_ids=prompt_ids), sampling_params=params(), stream=True
    )
    *chunks, last = stub.Generate(request)
    by_text = pb.GenerateRequest(text=PROMPT, sampling_params=params())
    [whole] = stub.Generate(by_text)
    tensor = triton_http.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT.encode()], object))
    with triton_http.InferenceServerClient(server.removeprefix("http://")) as client:
        options = {"max_tokens": MAX_TOKENS, "temperature": 0, "seed": 1}
        inferred = client.infer(model, [tensor], parameters=options)
    assert list(last.complete.output_ids) == openai["token_ids"]
    assert [i for each in chunks for i in each.chunk.token_ids] == openai["token_ids"]
    assert list(whole.complete.output_ids) == openai["token_ids"]
    assert inferred.as_numpy("output_ids")[0].tolist() == openai["token_ids"]
    assert last.complete.prompt_tokens == len(prompt_ids)


def test_model_server_and_load_are_read(stub, model):
    assert stub.HealthCheck(pb.HealthCheckRequest()).healthy
    assert stub.GetModelInfo(pb.GetModelInfoRequest()).served_model_name == model
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).uptime_seconds > 0
    [load] = stub.GetLoads(pb.GetLoadsRequest()).loads
    assert load.max_running_requests > 0


def test_an_unknown_request_can_be_aborted(stub):
    stub.Abort(pb.AbortRequest(request_ids=["nothing"]))


def test_a_refusal_is_a_status(stub):
    request = pb.GenerateRequest(text=PROMPT, data_parallel_rank=1)
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Generate(request))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
