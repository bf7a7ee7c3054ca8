"""One prompt in every protocol of a server, and the token ids that each of them answers."""

from __future__ import annotations

import grpc
import httpx
import numpy as np

from server.pb.antipode.v1 import generation_pb2 as own
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from server.pb.inference import open_inference_pb2 as oip
from server.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from server.pb.vllm.grpc import vllm_engine_pb2 as vllm
from server.pb.vllm.grpc.vllm_engine_pb2_grpc import VllmEngineStub


async def tokens_by_protocol(
    http: httpx.AsyncClient, address: str, prompt: str, **options: float
) -> dict[str, list[int]]:
    """`http` is a client of the server, `address` its gRPC port."""
    body = {"model": "toy", "prompt": prompt, "return_token_ids": True, **options}
    openai = (await http.post("/v1/completions", json=body)).raise_for_status().json()
    twin = {"text_input": prompt, "parameters": options}
    answer = await http.post("/v2/models/toy/generate", json=twin)
    async with grpc.aio.insecure_channel(address) as channel:
        return {
            "OpenAI": openai["choices"][0]["token_ids"],
            "OIP over HTTP": answer.raise_for_status().json()["output_ids"],
            "OIP over gRPC": await _by_open_inference(channel, prompt, options),
            "antipode.v1": await _by_antipode(channel, prompt, options),
            "VllmEngine": await _by_vllm_engine(channel, prompt, options),
        }


async def _by_open_inference(channel: grpc.aio.Channel, prompt: str, options) -> list[int]:
    request = oip.ModelInferRequest(model_name="toy")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(prompt.encode())
    request.outputs.add(name="output_ids")
    for name, value in options.items():
        kind = {bool: "bool", int: "int64", float: "double"}[type(value)]
        setattr(request.parameters[name], f"{kind}_param", value)
    answer = await GRPCInferenceServiceStub(channel).ModelInfer(request)
    return np.frombuffer(answer.raw_output_contents[0], np.int32).tolist()


async def _by_antipode(channel: grpc.aio.Channel, prompt: str, options) -> list[int]:
    request = own.GenerateRequest(
        text=prompt, sampling=own.Sampling(**options), return_token_ids=True
    )
    return [
        token_id
        async for response in GenerationStub(channel).Generate(request)
        for token_id in response.token_ids
    ]


async def _by_vllm_engine(channel: grpc.aio.Channel, prompt: str, options) -> list[int]:
    request = vllm.GenerateRequest(text=prompt, sampling_params=vllm.SamplingParams(**options))
    [answer] = [each async for each in VllmEngineStub(channel).Generate(request)]
    return list(answer.complete.output_ids)
