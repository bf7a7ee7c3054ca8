"""Every limit on what a client may ask for, and the sentences that say so.

The ranges are data, so that the OpenAPI document can show the same ones. Nothing here knows a
transport or does any work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from server.api.requests.generation import GenerateRequest, ResumePoint
from server.errors import ApiError, ErrorKind
from server.link.frames import EngineInfo
from server.link.sampling import (
    MAX_LOGIT_BIASES,
    MAX_STOP_TOKEN_IDS,
    OPTIONS,
    Range,
)

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARS = 64
MAX_REQUEST_ID_CHARS = 128


# By the name in a request.
RANGES: Mapping[str, Range] = {
    **{option.asked_as: option.rule.allowed for option in OPTIONS},
    "n": Range(1, MAX_CHOICES),
}
LOGIT_BIAS_RANGE = Range(-100, 100)


# A public service's answer to "how much is too much for one": so many whole contexts.
DEFAULT_CONTEXTS_PER_REQUEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may ask for as a whole, all its prompts and choices together.

    `max_tokens` counts prompt and generation of every sequence; 0 is 16 times `max_model_len`.
    """

    max_sequences: int = 64
    max_tokens: int = 0

    def check_sequences(
        self, num_prompts: int, num_sequences: int, most_choices: int = MAX_CHOICES
    ) -> None:
        """Refuse more prompts times n than one request may have.

        `most_choices` is the most that n may be. Where it is lower, it is said too.
        """
        if num_sequences > self.max_sequences:
            is_of_prompts = num_prompts > 1
            too = most_choices < min(self.max_sequences, num_sequences // num_prompts)
            n = f", and n must be at most {most_choices} on this server" if too else ""
            raise invalid(
                f"the request asks for {num_sequences} sequences, prompts times n; at most"
                f" {self.max_sequences} may be asked for at once (--max-request-sequences){n}; send"
                " several requests",
                "prompt" if is_of_prompts else "n",
            )

    def most_tokens(self, info: EngineInfo) -> int:
        """The tokens that all sequences of a request may have together."""
        return self.max_tokens or DEFAULT_CONTEXTS_PER_REQUEST * info.max_model_len

    def check_tokens(self, num_tokens: int, info: EngineInfo) -> None:
        """Refuse more tokens than one request may take, `num_tokens` being all it could take."""
        limit = self.most_tokens(info)
        if num_tokens > limit:
            raise invalid(
                f"the request asks for {num_tokens} tokens, prompt and max_tokens of all its"
                f" sequences; at most {limit} may be asked for at once (--max-request-tokens);"
                " lower max_tokens or n, or send several requests",
                "max_tokens",
            )


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that is the client's to mend."""
    return ApiError(ErrorKind.INVALID_REQUEST, message, param=param, code=code)


def is_request_id(text: str) -> bool:
    """Visible ASCII, and not too long to be repeated in headers and logs."""
    return 0 < len(text) <= MAX_REQUEST_ID_CHARS and all("!" <= c <= "~" for c in text)


def check_request_id(text: str) -> None:
    """Refuse an id that a request names for itself and that cannot be repeated."""
    if not is_request_id(text):
        raise invalid(
            f"request_id must be 1 to {MAX_REQUEST_ID_CHARS} visible ASCII characters",
            "request_id",
        )


def check_options(request: GenerateRequest, info: EngineInfo) -> None:
    """Refuse every option that is out of bounds whatever the prompt turns out to be."""
    _check_ranges(request)
    if request.n > info.max_num_seqs:
        raise invalid(f"n must be at most {info.max_num_seqs} on this server", "n")
    sampling = request.sampling
    _check_stop(sampling.stop)
    check_count("stop_token_ids", sampling.stop_token_ids, MAX_STOP_TOKEN_IDS)
    check_token_ids("stop_token_ids", sampling.stop_token_ids, info.vocab_size)
    _check_logit_bias(sampling.logit_bias, info.vocab_size)
    check_count("allowed_token_ids", sampling.allowed_token_ids, info.vocab_size)
    check_token_ids("allowed_token_ids", sampling.allowed_token_ids, info.vocab_size)
    _check_bad_words(sampling.bad_words)
    if request.resume is not None:
        _check_resume(request.resume, request, info)
    if sampling.max_tokens is not None and (sampling.min_tokens or 0) > sampling.max_tokens:
        raise invalid("min_tokens must not exceed max_tokens", "min_tokens")


def _check_resume(resume: ResumePoint, request: GenerateRequest, info: EngineInfo) -> None:
    if request.sampling.seed is None:
        raise invalid("resume needs seed, as the broken stream reported it", "seed")
    if len(resume.received) > request.n:
        raise invalid(f"resume has more choices than n, which is {request.n}", "resume")
    for token_ids in resume.received:
        check_prompt_length(len(token_ids), info)
        check_token_ids("resume", token_ids, info.vocab_size)


def check_token_ids(param: str, token_ids: Collection[int], vocab_size: int) -> None:
    """Refuse ids the model has no embedding for."""
    if (wrong := first_outside(token_ids, vocab_size)) is not None:
        raise invalid(
            f"{param} holds {wrong}, outside the vocabulary of {vocab_size} tokens", param
        )


def first_outside(token_ids: Collection[int], vocab_size: int) -> int | None:
    """The first id that is not in a vocabulary of so many; quick, because most lists have none."""
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        return None
    return next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)


def check_prompt(prompt_token_ids: tuple[int, ...], info: EngineInfo) -> None:
    """Refuse a prompt that is empty, unknown to the vocabulary, or leaves no room for a token."""
    if not prompt_token_ids:
        raise invalid("prompt must not be empty", "prompt")
    check_prompt_length(len(prompt_token_ids), info)
    check_token_ids("prompt", prompt_token_ids, info.vocab_size)


def check_truncation(request: GenerateRequest) -> None:
    """Refuse to cut a prompt with images, because a cut could go through one."""
    if request.images and request.truncate_prompt_tokens is not None:
        raise invalid(
            "truncate_prompt_tokens cannot go with images; leave it out, or leave out the oldest"
            " messages",
            "truncate_prompt_tokens",
        )


def check_prompt_length(num_tokens: int, info: EngineInfo) -> None:
    """Refuse a prompt that leaves no room for a token."""
    if num_tokens >= info.max_model_len:
        raise context_length_exceeded(f"has {num_tokens} tokens", info)


def context_length_exceeded(prompt_is: str, info: EngineInfo) -> ApiError:
    """OpenAI's sentence, by whose beginning client libraries know the error."""
    return invalid(
        f"This model's maximum context length is {info.max_model_len} tokens. However, the prompt"
        f" {prompt_is}, and at least one token must be left to generate. Shorten the prompt.",
        "prompt",
        "context_length_exceeded",
    )


def _check_ranges(request: GenerateRequest) -> None:
    for name, bounds in RANGES.items():
        value = request.n if name == "n" else getattr(request.sampling, name)
        if value is not None and not bounds.holds(value):
            raise invalid(f"{name} must be {bounds}", name)


def _check_stop(stop: tuple[str, ...]) -> None:
    check_count("stop", stop, MAX_STOP_STRINGS)
    if any(len(string) > MAX_STOP_CHARS for string in stop):
        raise invalid(f"a stop string must have at most {MAX_STOP_CHARS} characters", "stop")


def _check_bad_words(words: tuple[str, ...]) -> None:
    check_count("bad_words", words, MAX_BAD_WORDS)
    if not all(0 < len(word) <= MAX_BAD_WORD_CHARS for word in words):
        raise invalid(f"a bad word must have 1 to {MAX_BAD_WORD_CHARS} characters", "bad_words")


def _check_logit_bias(logit_bias: Mapping[int, float], vocab_size: int) -> None:
    check_count("logit_bias", logit_bias, MAX_LOGIT_BIASES)
    check_token_ids("logit_bias", logit_bias, vocab_size)
    if not all(map(LOGIT_BIAS_RANGE.holds, logit_bias.values())):
        raise invalid(f"a bias in logit_bias must be {LOGIT_BIAS_RANGE}", "logit_bias")


def check_count(param: str, values: Collection[object], maximum: int) -> None:
    """Refuse more entries than `maximum`."""
    if len(values) > maximum:
        raise invalid(f"{param} must hold at most {maximum} entries", param)
