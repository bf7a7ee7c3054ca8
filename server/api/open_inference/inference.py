"""A request and its answer in the protocol's terms, named tensors, over either transport.

Turns tensors into requests of the service, and deltas into tensors. Knows neither messages nor
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.open_inference.options import (
    DEFAULT_MAX_TOKENS,
    OPTION_NAMES,
    Options,
    check_supported,
    given_twice,
    read_json,
    read_options,
)
from server.api.open_inference.signature import (
    EXCLUDES_INPUT,
    OUTPUT_NAMES,
    SAMPLING,
    STREAM,
    TEXT,
    TOKENS,
)
from server.api.open_inference.tensors import Tensor
from server.api.requests.generation import Delta, GenerateRequest
from server.api.requests.validation import invalid
from server.api.streams.generation_group import GenerationGroup

_MICROSECONDS = 1_000_000
# The most that the protocol's own messages can carry; a longer one is as good as none.
_MAX_TIMEOUT = (1 << 63) - 1
# Marks the end of shorter rows in `output_ids`.
_NO_TOKEN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One request. `parameters` are plain values, `outputs` the names that are wanted: () is all.

    `id` is the client's own name for it, which the answer repeats.
    """

    model: str
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def wants_parts(self) -> bool:
        """Whether the answer is to come in parts."""
        return self._flag(STREAM, otherwise=False)

    @property
    def repeats_input(self) -> bool:
        """Whether a text is to begin with its prompt."""
        return not self._flag(EXCLUDES_INPUT, otherwise=True)

    def generate_requests(
        self, *, request_id: str, timeout_seconds: float | None, source: str
    ) -> list[GenerateRequest]:
        """One request of the service per prompt. ApiError for what the protocol does not allow."""
        self._check_names()
        options = self._options()
        return [
            GenerateRequest(
                prompt=prompt,
                model=f"{self.model}@{self.version}" if self.version else self.model,
                sampling=options.sampling,
                n=options.n,
                add_special_tokens=options.add_special_tokens,
                default_max_tokens=DEFAULT_MAX_TOKENS,
                request_id=request_id,
                timeout_seconds=self._timeout(timeout_seconds),
                source=source,
                grammar_asked_as=options.grammar_asked_as,
            )
            for prompt in self._prompts()
        ]

    def _check_names(self) -> None:
        if not self.model:
            raise invalid("the request names no model", "model_name")
        known = {TEXT, TOKENS, SAMPLING, STREAM, EXCLUDES_INPUT, *OPTION_NAMES}
        for name in self.inputs:
            if name not in known:
                raise invalid(
                    f"unexpected input {name[:64]!r}; the model takes {TEXT} or {TOKENS}, and"
                    f" {SAMPLING}, {STREAM}, {EXCLUDES_INPUT} and single options",
                    name[:64],
                )
            if name in self.parameters:
                raise given_twice(name)
        for name in self.outputs:
            if name not in OUTPUT_NAMES:
                raise invalid(
                    f"unexpected output {name[:64]!r}; the model gives {', '.join(OUTPUT_NAMES)}",
                    name[:64],
                )
        check_supported(self.parameters)
        if self.parameters.get("sequence_id"):
            raise invalid("the model keeps no state between requests; leave sequence_id out")

    def _prompts(self) -> Sequence[str | tuple[int, ...]]:
        texts, tokens = self.inputs.get(TEXT), self.inputs.get(TOKENS)
        if (texts is None) == (tokens is None):
            raise invalid(f"the request must have one of the inputs {TEXT} and {TOKENS}", TEXT)
        if texts is not None:
            return [_text(TEXT, value) for value in texts.values]
        assert tokens is not None
        return _rows(tokens)

    def _options(self) -> Options:
        json = self._scalar(SAMPLING)
        return read_options(
            {} if json is None else read_json(json, SAMPLING),
            {k: v for k, v in self.parameters.items() if k in OPTION_NAMES},
            {name: _option(self.inputs[name]) for name in self.inputs if name in OPTION_NAMES},
        )

    def _flag(self, name: str, *, otherwise: bool) -> bool:
        value = self._scalar(name)
        if value is None:
            return otherwise
        if not isinstance(value, bool):
            raise invalid(f"{name} must be true or false", name)
        return value

    def _scalar(self, name: str) -> Any:
        """The one element of an input, or the parameter of that name; None without either."""
        tensor = self.inputs.get(name)
        if tensor is None:
            return self.parameters.get(name)
        if len(tensor.values) != 1:
            raise invalid(f"{name} has {len(tensor.values)} elements; it must have one", name)
        return tensor.values[0]

    def _timeout(self, seconds: float | None) -> float | None:
        """The shorter of the call's deadline and the parameter `timeout`, in microseconds."""
        given = self.parameters.get("timeout", 0)
        if type(given) is not int or given < 0:
            raise invalid("timeout must be a whole number of microseconds", "timeout")
        if not given:
            return seconds
        own = min(given, _MAX_TIMEOUT) / _MICROSECONDS
        return own if seconds is None else min(seconds, own)


class Answer:
    """The answer to a request, as rows: one per choice, numbered through all prompts."""

    def __init__(self, inference: Inference, group: GenerationGroup) -> None:
        self._group = group
        self._inference = inference
        self._num_sent: dict[tuple[int, int], int] = {}
        self._repeats_input = inference.repeats_input

    @property
    def model(self) -> tuple[str, str]:
        """The model and its version."""
        first = self._group.first_started
        return first.model, first.version

    @property
    def is_complete(self) -> bool:
        """Whether everything has been taken."""
        return all(generation.is_finished for generation in self._group.generations)

    async def finish(self) -> list[tuple[int, Delta]]:
        """Wait for the end: everything that came, as `tensors` takes it."""
        return flattened(await self._group.finish())

    def tensors(self, taken: Sequence[tuple[int, Delta]]) -> list[Tensor]:
        """The wanted outputs of these deltas, each with its prompt's position."""
        rows = list(map(self._row, taken))
        longest = max((len(row.token_ids) for row in rows), default=0)
        found: dict[str, tuple[str, list[Any]]] = {
            "text_output": ("BYTES", [row.text for row in rows]),
            "num_output_tokens": ("UINT32", [row.num_tokens for row in rows]),
            "num_input_tokens": ("UINT32", [row.num_prompt_tokens for row in rows]),
            "finish_reason": ("BYTES", [row.finish_reason for row in rows]),
            "index": ("UINT32", [row.index for row in rows]),
        }
        padded = list(_padded([row.token_ids for row in rows], longest))
        tokens = Tensor("output_ids", "INT32", (len(rows), longest), padded)
        return [
            tokens
            if name == tokens.name
            else Tensor(name, found[name][0], (len(rows),), found[name][1])
            for name in self._inference.outputs or OUTPUT_NAMES
        ]

    def _row(self, taken: tuple[int, Delta]) -> _Row:
        position, delta = taken
        generation = self._group.generations[position]
        key = position, delta.index
        before = self._num_sent.get(key)
        self._num_sent[key] = (before or 0) + len(delta.token_ids)
        prompt = generation.prompt_text if self._repeats_input and before is None else ""
        return _Row(
            index=position * generation.request.n + delta.index,
            text=(prompt + delta.text).encode(errors="replace"),
            token_ids=delta.token_ids,
            num_tokens=self._num_sent[key],
            num_prompt_tokens=len(generation.prompt_token_ids),
            finish_reason=(delta.finish_reason or "").encode(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What came for one choice. `num_tokens` counts from its beginning."""

    index: int
    text: bytes
    token_ids: Sequence[int]
    num_tokens: int
    num_prompt_tokens: int
    finish_reason: bytes


def flattened(answers: Sequence[Sequence[Delta]]) -> list[tuple[int, Delta]]:
    """Each delta with its prompt's position, from a list for each prompt."""
    return [(position, delta) for position, deltas in enumerate(answers) for delta in deltas]


def _padded(rows: Sequence[Sequence[int]], longest: int) -> Iterator[int]:
    for row in rows:
        yield from row
        yield from [_NO_TOKEN] * (longest - len(row))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, bytes):
        raise invalid(f"{name} must be a tensor of BYTES", name)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(f"{name} is not valid UTF-8", name) from None


def _rows(tokens: Tensor) -> list[tuple[int, ...]]:
    """One prompt per row; a tensor of one dimension is one prompt."""
    if tokens.datatype not in ("INT32", "INT64", "UINT32", "UINT64"):
        raise invalid(f"{TOKENS} must be a tensor of INT32", TOKENS)
    if len(tokens.shape) not in (1, 2):
        raise invalid(f"{TOKENS} must have one or two dimensions", TOKENS)
    num_rows, length = (1, *tokens.shape)[-2:]
    if not length:
        raise invalid("prompt must not be empty", TOKENS)
    values = tokens.values
    return [tuple(values[i * length : (i + 1) * length]) for i in range(num_rows)]


def _option(tensor: Tensor) -> Any:
    """The value of an option: its one element, or a list."""
    values = [
        _text(tensor.name, value) if isinstance(value, bytes) else value for value in tensor.values
    ]
    return values[0] if len(values) == 1 else values
