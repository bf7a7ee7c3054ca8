"""What is asked: requests' bodies by name, without the model and the options of the client.

`random` is token ids, which servers of the same vocabulary share. `edit` and `summary` repeat their
prompt in the answer, `story` does not. Knows no server.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

type Body = dict[str, Any]

WORKLOADS = ("random", "edit", "summary", "story")
_CODE = Path("server/engine/policy")
_TEXT = Path("docs/architecture.md")
# Ids that are ordinary tokens in the vocabularies that people benchmark.
_IDS = range(1000, 30000)


def bodies(workload: str, prompt_tokens: int, seed: int) -> Iterator[Body]:
    """Endless requests; of `random`, each with a prompt of its own, so that no cache has it."""
    draw = random.Random(seed)
    while True:
        match workload:
            case "random":
                yield {"prompt": draw.choices(_IDS, k=prompt_tokens)}
            case "edit":
                yield _chat(f"Write this code again with better names.\n\n{_code(draw)}")
            case "summary":
                yield _chat(f"Repeat the most important sentences of this text.\n\n{_text(draw)}")
            case _:
                yield _chat(f"Tell a story about a sailor and the number {draw.randrange(1000)}.")


def _chat(text: str) -> Body:
    return {"messages": [{"role": "user", "content": text}]}


def _code(draw: random.Random) -> str:
    files = sorted(path for path in _CODE.glob("*.py") if 1000 < path.stat().st_size < 4000)
    return draw.choice(files).read_text()


def _text(draw: random.Random) -> str:
    parts = [part for part in _TEXT.read_text().split("\n\n") if len(part) > 400]
    return "\n\n".join(draw.sample(parts, 2))
