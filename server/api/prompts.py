"""Texts and requests' prompts as token ids, within bounds of the work that a text can cost.

A prompt that cannot fit is refused before it is tokenized whole, or truncated where its request
asks for that. Knows neither transports nor the
engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from server.api.chat.control_tokens import PiecedText
from server.api.large_work import LARGE_UNITS, LargeWork
from server.api.requests.generation import GenerateRequest
from server.api.requests.validation import context_length_exceeded, first_outside, invalid
from server.api.tokenizers.tokenizer import Tokenizer
from server.link.frames import EngineInfo

# A text that is only to be tokenized may have this many characters, or a model's context if longer.
MAX_TEXT_CHARS = 1 << 20
# The same for tokens of which only the text is asked.
MAX_TOKENS = 1 << 18
# Texts have about four characters per token; of a text with more, the beginning is tried first.
_CHARS_PER_TOKEN = 8
# The value of `truncate_prompt_tokens` that keeps what leaves room for the generated tokens.
_ALL_THAT_FIT = -1


class Prompts:
    """Belongs to an event loop; long texts are tokenized in threads."""

    def __init__(self, tokenizer: Tokenizer, large_work: LargeWork) -> None:
        self._tokenizer = tokenizer
        self._large_work = large_work

    async def tokenize(
        self, text: str, max_model_len: int, *, add_special_tokens: bool
    ) -> list[int]:
        """Token ids of a text; ApiError for one that is too long or no valid Unicode."""
        _check_chars(text, max_model_len)
        return await self._encode(text, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int], max_model_len: int) -> str:
        """The text of tokens, special ones included; ApiError for ids that do not exist."""
        check_num_tokens(len(token_ids), max_model_len)
        if (wrong := first_outside(token_ids, self._tokenizer.vocab_size)) is not None:
            raise invalid(f"tokens holds {wrong}, which is no token of this model", "tokens")
        return await self._large_work.run(len(token_ids), lambda: self._tokenizer.decode(token_ids))

    async def token_ids(self, request: GenerateRequest, info: EngineInfo) -> tuple[int, ...]:
        """A request's prompt, truncated if it asks for that. ApiError for one that cannot fit."""
        prompt, kept = request.prompt, _num_kept(request, info)
        if not isinstance(prompt, str):
            return prompt if kept is None else prompt[-kept:]
        if kept is not None:
            return tuple(await self._encode_end(prompt, kept, request, info))
        # Every character is in some token, so this many cannot fit: spare the work of counting.
        if len(prompt) > info.max_model_len * self._tokenizer.max_token_chars:
            raise context_length_exceeded(f"has {len(prompt)} characters", info)
        if isinstance(prompt, PiecedText) and len(prompt.pieces) > info.max_model_len:
            raise context_length_exceeded(f"has {len(prompt.pieces)} tokens or more", info)
        await self._refuse_by_beginning(prompt, info)
        return tuple(await self._encode(prompt, add_special_tokens=request.add_special_tokens))

    async def _refuse_by_beginning(self, prompt: str, info: EngineInfo) -> None:
        """Refuse a long text whose beginning has twice the tokens that fit, without the rest.

        A cut changes only the tokens next to it, so the whole text has more than half as many.
        """
        num_chars = info.max_model_len * _CHARS_PER_TOKEN
        if len(prompt) <= max(num_chars, LARGE_UNITS):
            return
        num_tokens = len(await self._encode(prompt[:num_chars], add_special_tokens=False))
        if num_tokens >= 2 * info.max_model_len:
            raise context_length_exceeded(
                f"has {len(prompt)} characters, of which the first {num_chars} are {num_tokens}"
                " tokens",
                info,
            )

    async def _encode_end(
        self, text: str, kept: int, request: GenerateRequest, info: EngineInfo
    ) -> list[int]:
        """The last tokens of a text, which may be longer than the context."""
        _check_chars(text, info.max_model_len)
        special = request.add_special_tokens
        encode = partial(self._tokenizer.encode_end, text, kept, add_special_tokens=special)
        return await self._encoded(text, encode)

    async def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encode = partial(self._tokenizer.encode, text, add_special_tokens=add_special_tokens)
        return await self._encoded(text, encode)

    async def _encoded(self, text: str, encode: Callable[[], list[int]]) -> list[int]:
        try:
            return await self._large_work.run(len(text), encode)
        except UnicodeError:
            raise invalid(
                "prompt must be valid Unicode, without lone surrogates", "prompt"
            ) from None


def check_num_tokens(num_tokens: int, max_model_len: int) -> None:
    """Refuse more tokens than are detokenized at once."""
    limit = max(MAX_TOKENS, max_model_len)
    if num_tokens > limit:
        raise invalid(
            f"tokens holds {num_tokens} tokens; at most {limit} can be read at once", "tokens"
        )


def _check_chars(text: str, max_model_len: int) -> None:
    limit = max(MAX_TEXT_CHARS, _CHARS_PER_TOKEN * max_model_len)
    if len(text) > limit:
        raise invalid(
            f"prompt has {len(text)} characters; at most {limit} can be tokenized at once",
            "prompt",
        )


def _num_kept(request: GenerateRequest, info: EngineInfo) -> int | None:
    """How many of the prompt's last tokens are kept, None for all. ApiError where that is none."""
    asked = request.truncate_prompt_tokens
    if asked is None:
        return None
    if asked == _ALL_THAT_FIT:
        max_tokens = request.sampling.max_tokens or request.default_max_tokens or 1
        return max(1, info.max_model_len - max_tokens)
    if asked < 1:
        raise invalid(
            f"truncate_prompt_tokens is {asked}; give a number of tokens to keep, or -1 for as many"
            " as leave room for max_tokens",
            "truncate_prompt_tokens",
        )
    return asked
