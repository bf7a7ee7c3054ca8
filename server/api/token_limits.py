"""`allowed_token_ids` and `bad_words` of a request, as the grammar that its tokens follow.

A bad word is forbidden as the tokenizer writes it, at the start of a text and after a space. Knows
neither transports nor how a grammar is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from server.api.large_work import LargeWork
from server.api.requests.generation import GenerateRequest
from server.api.requests.validation import invalid
from server.api.tokenizers.tokenizer import Tokenizer
from server.grammar.token_rules import only_tokens, without_sequences
from server.link.frames import EngineInfo
from server.link.sampling import Grammar


async def with_token_rules(
    request: GenerateRequest, info: EngineInfo, tokenizer: Tokenizer, work: LargeWork
) -> GenerateRequest:
    """The request with a grammar in place of these options. ApiError next to another grammar."""
    sampling = request.sampling
    if not (sampling.allowed_token_ids or sampling.bad_words):
        return request
    asked_as = _only_one(request)
    ignores_end = sampling.ignore_eos
    if sampling.allowed_token_ids:
        make = partial(only_tokens, sampling.allowed_token_ids, info.eos_token_ids)
        num_units = len(sampling.allowed_token_ids)
        ignores_end |= not set(sampling.allowed_token_ids) & set(info.eos_token_ids)
    else:
        make = partial(_without_words, sampling.bad_words, tokenizer)
        num_units = 2 * sum(map(len, sampling.bad_words))
    grammar = await work.run(num_units, make)
    sampling = replace(sampling, grammar=grammar, ignore_eos=ignores_end)
    return replace(request, sampling=sampling, grammar_asked_as=asked_as)


def _only_one(request: GenerateRequest) -> str:
    """The option that limits the tokens. ApiError if there are two."""
    sampling = request.sampling
    limits = {
        "allowed_token_ids": sampling.allowed_token_ids,
        "bad_words": sampling.bad_words,
        request.grammar_asked_as: sampling.grammar is not None,
    }
    asked = [name for name, is_given in limits.items() if is_given]
    if len(asked) > 1:
        raise invalid(f"{asked[0]} cannot go with {asked[1]}; send one of them", asked[0])
    return asked[0]


def _without_words(words: Sequence[str], tokenizer: Tokenizer) -> Grammar:
    forms = [form for word in words for form in (word, f" {word.lstrip()}")]
    sequences = [tokenizer.encode(form, add_special_tokens=False) for form in forms]
    return without_sequences(filter(None, sequences))
