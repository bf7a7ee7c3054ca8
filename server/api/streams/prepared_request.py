"""A validated request of one prompt, as it is given to the engine and its stream begins.

Knows neither transport nor engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.api.requests.generation import GenerateRequest
from server.api.requests.model_directory import NamedModel
from server.api.streams.choice import Choice
from server.link.frames import EngineInfo
from server.link.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A validated request. `seed` is the seed as reported; `params` has the same seed unsigned.

    In a resumed stream, `choices` already contain the tokens that the client has received; some
    choices may have ended with these. `image_starts` are the places of the request's images.
    """

    request: GenerateRequest
    named: NamedModel
    prompt_token_ids: tuple[int, ...]
    seed: int
    params: SamplingParams
    choices: tuple[Choice, ...]
    image_starts: tuple[int, ...] = ()

    @property
    def info(self) -> EngineInfo:
        return self.named.info

    @property
    def num_tokens(self) -> int:
        """All tokens that it may take, prompt and generation of every choice."""
        return self.request.n * (len(self.prompt_token_ids) + self.params.max_tokens)

    @property
    def is_complete(self) -> bool:
        """Whether nothing remains to be generated."""
        return all(choice.finish_reason is not None for choice in self.choices)

    @property
    def received(self) -> list[Sequence[int] | None]:
        """The received tokens per choice: None for an ended choice, empty for a new stream."""
        resume = self.request.resume
        if resume is None:
            return []
        received = dict(enumerate(resume.received))
        return [
            None if choice.finish_reason is not None else received.get(choice.index, ())
            for choice in self.choices
        ]
