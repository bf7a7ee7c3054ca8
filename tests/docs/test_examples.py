import asyncio

from docs.examples import grpc_client, grpc_reflection
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import ids, serving

PARIS = [[token_id] for token_id in [*ids("Paris."), 262]]


async def test_grpc_client(capsys):
    engine = FakeEngine(PARIS)
    async with serving(engine) as s:
        await asyncio.to_thread(grpc_client.main, s.address, "Where?")
    assert capsys.readouterr().out == "Paris.\n(7 tokens)\n"
    assert engine.submitted[0].prompt_token_ids == s.tokenizer.encode(
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_grpc_reflection(capsys):
    engine = FakeEngine(PARIS)
    async with serving(engine) as s:
        await asyncio.to_thread(grpc_reflection.main, s.address)
    services, answer = capsys.readouterr().out.splitlines()
    assert services.split() == [
        "services:",
        "antipode.v1.Generation",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    assert answer == "Paris."
    assert engine.submitted[0].params.max_tokens == 16
