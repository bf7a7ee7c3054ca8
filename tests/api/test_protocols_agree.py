"""The same prompt in each protocol asks the engine the same, and gives the same tokens."""

from server.pb.antipode.v1 import generation_pb2 as own
from server.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from server.pb.vllm.grpc import vllm_engine_pb2 as vllm
from server.pb.vllm.grpc.vllm_engine_pb2_grpc import VllmEngineStub
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, ids, serving, token_ids_of
from tests.api.open_inference.calling import request, text
from tests.api.open_inference.test_servicer import outputs_of
from tests.api.test_parity import http_client

TOKENS = [*ids("hello world"), 262]
PROMPT = "say hello"
OPTIONS = {"max_tokens": 40, "temperature": 0.5, "top_k": 7, "seed": 11}


async def test_the_same_prompt_gives_the_same_tokens_in_every_protocol():
    engine = FakeEngine([[token_id] for token_id in TOKENS])
    async with serving(engine) as s, http_client(s) as client:
        body = {"prompt": PROMPT, "return_token_ids": True, **OPTIONS}
        openai = (await client.post("/v1/completions", json=body)).json()["choices"][0]["token_ids"]
        generate = {"text_input": PROMPT, "parameters": OPTIONS}
        path = "/v2/models/small/generate"
        twin = (await client.post(path, json=generate)).json()["output_ids"]
        ours = token_ids_of(
            await collect(
                s.stub.Generate(
                    own.GenerateRequest(
                        text=PROMPT, sampling=own.Sampling(**OPTIONS), return_token_ids=True
                    )
                )
            )
        )
        inferred = await GRPCInferenceServiceStub(s.channel).ModelInfer(
            request(text(PROMPT), **OPTIONS)
        )
        message = vllm.GenerateRequest(text=PROMPT, sampling_params=vllm.SamplingParams(**OPTIONS))
        [whole] = await collect(VllmEngineStub(s.channel).Generate(message))
    found = [outputs_of(inferred)["output_ids"].values, list(whole.complete.output_ids)]
    assert [openai, twin, ours, *found] == [TOKENS] * 5
    first, *others = engine.submitted
    assert len(others) == 4
    for other in others:
        assert (other.prompt_token_ids, other.params) == (first.prompt_token_ids, first.params)
