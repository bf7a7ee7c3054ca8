"""Random requests near right ones: values of other types, sizes and encodings, and torn bytes.

All of it follows from one `random.Random`. Knows no transport.
"""

from __future__ import annotations

import json
import random
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, -0.0, 0.5, 10**400,
    "", "a", "\x00", "\ud7ff", "\U0010ffff", "null", "x" * 5000, "../../etc/passwd", "tiny@9", "@",
    [], [[]], [None], [1, 2, 3], [-1], ["a", 1], {}, {"a": {}}, {"": None}, [[1], [2]], [{}] * 50,
)  # fmt: skip
COMPLETION = {
    "model": "", "prompt": "abc", "max_tokens": 2, "n": 1, "stream": False, "temperature": 0.5,
    "top_p": 0.9, "top_k": 5, "seed": 3, "stop": ["x"], "logprobs": 1, "echo": False,
    "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"5": 1.0}, "min_tokens": 0,
    "ignore_eos": False, "return_token_ids": True, "user": "a", "resume": None,
    "stream_options": {"include_usage": True},
}  # fmt: skip
# Fields without which a body asks for nothing.
_PROMPTS = ("prompt", "messages", "input", "inputs", "text_input", "query", "documents", "tokens")
# A GIF of one pixel.
IMAGE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
CHAT = {name: value for name, value in COMPLETION.items() if name not in ("prompt", "echo")} | {
    "messages": [{"role": "user", "content": "hi"}],
    "logprobs": True,
    "top_logprobs": 2,
}


_SAID = [{"role": "user", "content": "hi"}]
_TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
_TENSOR = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
# By path: a right body of each protocol that the server speaks over HTTP.
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": CHAT,
    "/v1/responses": {
        "model": "", "input": "hi", "instructions": "x", "max_output_tokens": 2, "stream": False,
        "temperature": 0.5, "top_p": 0.9, "store": False, "metadata": {}, "tools": [],
        "tool_choice": "auto", "text": {"format": {"type": "text"}}, "reasoning": None,
    },
    "/v1/messages": {
        "model": "", "messages": _SAID, "system": "x", "max_tokens": 2, "stream": False,
        "temperature": 0.5, "top_k": 3, "stop_sequences": ["x"], "metadata": {"user_id": "a"},
        "tools": [_TOOL], "tool_choice": {"type": "auto"}, "thinking": None,
    },
    "/v1/messages/count_tokens": {"model": "", "messages": _SAID, "system": "x", "tools": [_TOOL]},
    "/v1/embeddings": {
        "model": "", "input": "hi", "dimensions": None, "encoding_format": "float", "user": "a",
    },
    "/rerank": {"model": "", "query": "a", "documents": ["b", "c"], "top_n": 1},
    "/score": {"model": "", "text_1": "a", "text_2": ["b"]},
    "/tokenize": {"model": "", "prompt": "hi", "add_special_tokens": True},
    "/detokenize": {"model": "", "tokens": [5, 6], "skip_special_tokens": False},
    "/v2/models/toy/infer": {
        "id": "a", "inputs": [_TENSOR], "outputs": [{"name": "text_output"}],
        "parameters": {"max_tokens": 2, "temperature": 0.5},
    },
    "/v2/models/toy/generate": {
        "text_input": "hi", "max_tokens": 2, "parameters": {"seed": 3}, "stream": False,
    },
    "/v2/models/toy/generate_stream": {"text_input": "hi", "max_tokens": 2, "id": "a"},
    "/v2/repository/index": {"ready": True},
}  # fmt: skip


def body(rng: random.Random, right: dict[str, Any]) -> bytes:
    """A request's JSON: some fields strange, or the bytes torn."""
    names = rng.sample([*right], rng.randint(1, min(6, len(right))))
    # Few tokens each, so that what is right after all ends soon.
    found = {"max_tokens": 2} | {name: right[name] for name in names}
    if rng.random() < 0.7:
        for field in _PROMPTS:
            if field in right:
                found[field] = right[field]
    if "messages" in found and rng.random() < 0.2:
        found["messages"] = [{"role": "user", "content": [image_part(rng), image_part(rng)]}]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        found[rng.choice([*right])] = strange(rng)
    for name in ("max_tokens", "max_output_tokens"):
        if isinstance(found.get(name), int | float) and found[name] > 64:
            found[name] = 64
    return torn(rng, json.dumps(found).encode()) if rng.random() < 0.2 else _dumped(rng, found)


def image_part(rng: random.Random) -> dict[str, Any]:
    """An image, or what is nearly one."""
    place = rng.randrange(len(IMAGE) + 1)
    url = rng.choice((IMAGE, IMAGE[:place], IMAGE[:place] + "*" + IMAGE[place:], strange(rng)))
    part = {"type": "image_url", "image_url": rng.choice((url, {"url": url, "detail": "auto"}))}
    if rng.random() < 0.2:
        part[rng.choice(("type", "image_url"))] = strange(rng)
    return part


def strange(rng: random.Random, depth: int = 0) -> Any:
    """A value that most fields do not expect."""
    if depth < 3 and rng.random() < 0.2:
        return [strange(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if depth < 3 and rng.random() < 0.1:
        return {str(strange(rng, 3))[:20]: strange(rng, depth + 1)}
    return rng.choice(STRANGE)


def torn(rng: random.Random, content: bytes) -> bytes:
    """Cut, flipped, repeated, or replaced by noise."""
    match rng.randrange(5):
        case 0:
            return content[: rng.randrange(len(content) + 1)]
        case 1 if content:
            place = rng.randrange(len(content))
            return content[:place] + rng.randbytes(1) + content[place + 1 :]
        case 2:
            return content * rng.randint(2, 4)
        case 3:
            return b"[" * rng.choice((10, 1000, 50_000))
    return rng.randbytes(rng.randrange(200))


def _dumped(rng: random.Random, found: dict[str, Any]) -> bytes:
    if rng.random() < 0.05:
        found = found | {"temperature": float("nan")}
    return json.dumps(found, ensure_ascii=rng.random() < 0.5).encode(errors="replace")
