"""What a field of another server can mean here, and the sentences that several refusals share.

Knows neither the fields nor the bodies that may have them.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api.requests.refused_fields import Refusal


@dataclass(frozen=True, slots=True)
class Alias:
    """Another server's name for a field of this server, with the same meaning."""

    field: str


@dataclass(frozen=True, slots=True)
class Passes:
    """A field that changes no answer of this server."""

    why: str


type Meaning = Alias | Refusal | Passes

LEAVE_OUT = "leave it out"
BY_STOP = "use stop"
BY_N = "use n"
BY_LOGITS = "use logit_bias"
BY_LOGPROBS = "use logprobs, top_logprobs or prompt_logprobs"
BY_RESPONSE_FORMAT = "use response_format"
OTHER_SAMPLER = "use temperature, top_p, top_k or min_p"
NO_BEAMS = "this server samples and has no beam search"
OWN_PROMPT = "write the whole prompt, or messages"
TEXT_ONLY = "this server reads text and images, and writes text"
OPTIONS_OUTSIDE = "write the options that it holds as fields of the body"
THINKING = "use chat_template_kwargs with the variable that the model's chat template has"
SPEED = "it concerns only speed"


def passes(names: str, why: str) -> dict[str, Meaning]:
    """The same reason for several fields, whose names blanks part."""
    return dict.fromkeys(names.split(), Passes(why))


def alias(names: str, field: str) -> dict[str, Meaning]:
    """Several names of one field, parted by blanks."""
    return dict.fromkeys(names.split(), Alias(field))
