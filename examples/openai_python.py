"""Chat by OpenAI's Python client: one whole answer, then one that is printed as it comes.

The server needs no key, but the client wants one.
"""

from __future__ import annotations

import os

from openai import OpenAI

SERVER = os.environ.get("ANTIPODE_HTTP", "http://localhost:8000")
QUESTION = "What is the capital of France?"


def main() -> None:
    client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")
    model = next(iter(client.models.list())).id

    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=32,
        temperature=0,
    )
    print(answer.choices[0].message.content)

    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=32,
        seed=7,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
