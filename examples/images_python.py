"""Ask about a picture, by OpenAI's Python client and by Antipode's: both print the same answer.

The server's model must read images. ANTIPODE_IMAGE is the path of a PNG.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from antipode import Client
from openai import OpenAI

HTTP = os.environ.get("ANTIPODE_HTTP", "http://localhost:8000")
GRPC = os.environ.get("ANTIPODE_GRPC", "localhost:9000")
PICTURE = Path(os.environ.get("ANTIPODE_IMAGE", "picture.png"))
QUESTION = {"type": "text", "text": "What is in this picture?"}


def main() -> None:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, QUESTION]
    openai = OpenAI(base_url=f"{HTTP}/v1", api_key="none")
    answer = openai.chat.completions.create(
        model=next(iter(openai.models.list())).id,
        messages=[{"role": "user", "content": content}],
        max_tokens=32,
        temperature=0,
    )
    print(answer.choices[0].message.content)

    messages = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, QUESTION]}]
    with Client(f"grpc://{GRPC}") as client:
        [choice] = client.generate(messages, max_tokens=32, temperature=0).collect()
        print(choice.text)


if __name__ == "__main__":
    main()
