"""One streamed request to an OpenAI-compatible server, and when its parts came.

Tokens are counted by the server's own `usage`, because a part may carry several. Knows neither
which server answers nor what else it is asked.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import httpx

from benchmarks.load.workloads import Body


@dataclass(slots=True)
class Stream:
    """Times in seconds of one clock. `part_times` has an entry for every part with output."""

    sent: float
    part_times: list[float] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0

    @property
    def ttft(self) -> float:
        """Time to the first token."""
        return self.part_times[0] - self.sent

    @property
    def tpot(self) -> float | None:
        """Mean time per token after the first part; None where nothing came after it."""
        num_later = self.num_tokens * (1 - 1 / len(self.part_times))
        return (self.part_times[-1] - self.part_times[0]) / num_later if num_later else None

    @property
    def gaps(self) -> list[float]:
        """The times between parts."""
        return [b - a for a, b in zip(self.part_times, self.part_times[1:], strict=False)]


class StreamError(RuntimeError):
    """A server refused a request or gave no token; the message has its answer."""


async def stream(client: httpx.AsyncClient, body: Body) -> Stream:
    """Send a request and read its answer to the end. Raises StreamError."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    options = {"stream": True, "stream_options": {"include_usage": True}}
    found = Stream(time.perf_counter())
    async with client.stream("POST", path, json=body | options) as response:
        if response.is_error:
            answer = (await response.aread()).decode(errors="replace")
            raise StreamError(f"{path} answered {response.status_code}: {answer[:300]}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                _take(found, json.loads(line[6:]))
    if not found.part_times:
        raise StreamError(f"{path} gave no token")
    found.num_tokens = found.num_tokens or len(found.part_times)
    return found


def _take(found: Stream, event: Body) -> None:
    if "error" in event:
        raise StreamError(str(event["error"]))
    if any(_has_output(choice) for choice in event.get("choices", ())):
        found.part_times.append(time.perf_counter())
    if usage := event.get("usage"):
        found.num_prompt_tokens = usage["prompt_tokens"]
        found.num_tokens = usage["completion_tokens"]


def _has_output(choice: Body) -> bool:
    delta = choice.get("delta") or {}
    texts = choice.get("text"), delta.get("content"), delta.get("reasoning_content")
    return any(texts) or bool(choice.get("token_ids"))
