"""Three conversations at once in asyncio, from whichever of two addresses answers.

The server batches them: together they take little longer than one.
"""

from __future__ import annotations

import asyncio
import os

from antipode import AsyncClient

ADDRESSES = os.environ.get("ANTIPODE_SERVERS", "grpc://localhost:9000,http://localhost:8000")
QUESTIONS = ("What is the capital of France?", "Who wrote Faust?", "What is 2 + 2?")


async def ask(client: AsyncClient, question: str) -> str:
    """The whole answer."""
    messages = [{"role": "user", "content": question}]
    stream = client.generate(messages, max_tokens=32, temperature=0, timeout=60)
    return "".join([delta.text async for delta in stream])


async def main() -> None:
    async with AsyncClient(*ADDRESSES.split(",")) as client:
        answers = await asyncio.gather(*(ask(client, question) for question in QUESTIONS))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question} {answer}")


if __name__ == "__main__":
    asyncio.run(main())
