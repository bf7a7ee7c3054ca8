"""The sampling options of a request: for each its name, type, default, range and row on the device.

`SamplingParams` is the table. From it follow the checks of ranges and the HTTP bodies in the API,
and the arrays of a step in the engine. Knows neither arrays nor a transport.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

# The most alternatives of a token's log probability: the OpenAI API's limit.
MAX_LOGPROBS = 20
# What the engine keeps per sequence on the device, so the most that a request may ask for.
MAX_LOGIT_BIASES = 300
MAX_STOP_TOKEN_IDS = 64
_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included."""

    minimum: float
    maximum: float

    def holds(self, value: float) -> bool:
        """False for NaN."""
        return self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"at least {self.minimum} and at most {self.maximum}"

    def schema(self) -> dict[str, Any]:
        """As JSON schema keywords."""
        return {"minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The array of a step that holds an option, one entry per row, and what padding rows hold."""

    dtype: Literal["float32", "int32"]
    padding: float


_OFF_AT_0 = Row(dtype="float32", padding=0.0)
_OFF_AT_1 = Row(dtype="float32", padding=1.0)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a client may ask for. `row` is None where no array of the step holds the option.

    `asked_as` is the option's name in a request where that differs from the field's.
    """

    allowed: Range
    row: Row | None = None
    asked_as: str = ""
    description: str | None = None


GrammarKind = Literal[
    "json_schema", "json_object", "regex", "choice", "lark", "structural_tag"
]  # fmt: skip


class Grammar(msgspec.Struct, frozen=True):
    """The form that a choice's text must have.

    `text` depends on `kind`: a JSON schema, "" (json_object), a regular expression, a JSON list of
    texts (choice), a grammar in llguidance's Lark, or the JSON of a structural tag.
    """

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the table: a field of SamplingParams that has a rule, `asked_as` in a request."""

    name: str
    asked_as: str
    type: type[int] | type[float]
    default: Any
    rule: Rule


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request wants its tokens drawn. Validated before it gets here.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off.
    `num_logprobs` and `num_prompt_logprobs`: -1 for none, 0 for the token's own, k for k
    alternatives next to it. `seed` is unsigned, 64 bits. `stop_token_ids` end a choice and are part
    of its tokens, as the model's own end tokens are (these only unless `ignore_eos`). `grammar`
    None is free text.
    """

    temperature: Annotated[
        float, Rule(Range(0, 2), _OFF_AT_0, description="Unset is 1, 0 is greedy.")
    ] = 1.0
    top_p: Annotated[
        float, Rule(Range(0, 1), _OFF_AT_1, description="1 is off, 0 takes the likeliest token.")
    ] = 1.0
    top_k: Annotated[
        int,
        Rule(
            Range(-1, _MAX_INT32),
            Row(dtype="int32", padding=0),
            description="0 and -1 switch it off.",
        ),
    ] = 0
    min_p: Annotated[float, Rule(Range(0, 1), _OFF_AT_0)] = 0.0
    presence_penalty: Annotated[float, Rule(Range(-2, 2), _OFF_AT_0)] = 0.0
    frequency_penalty: Annotated[float, Rule(Range(-2, 2), _OFF_AT_0)] = 0.0
    repetition_penalty: Annotated[float, Rule(Range(0.01, 100), _OFF_AT_1)] = 1.0
    max_tokens: Annotated[
        int,
        Rule(Range(0, _MAX_INT32), description="With 0, the prompt is read and nothing generated."),
    ]
    min_tokens: Annotated[int, Rule(Range(0, _MAX_INT32))] = 0
    num_logprobs: Annotated[int, Rule(Range(0, MAX_LOGPROBS), asked_as="logprobs")] = -1
    num_prompt_logprobs: Annotated[
        int, Rule(Range(0, MAX_LOGPROBS), asked_as="prompt_logprobs")
    ] = -1
    seed: Annotated[
        int, Rule(Range(-(2**63), 2**64 - 1), description="Unset: one is drawn and reported.")
    ] = 0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None


def _read_table() -> Iterator[Option]:
    hints = typing.get_type_hints(SamplingParams, include_extras=True)
    for field in msgspec.structs.fields(SamplingParams):
        hint = hints[field.name]
        for rule in getattr(hint, "__metadata__", ()):
            asked_as = rule.asked_as or field.name
            yield Option(field.name, asked_as, hint.__origin__, field.default, rule)


OPTIONS = tuple(_read_table())
