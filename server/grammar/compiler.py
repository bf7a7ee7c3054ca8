"""Compiles grammars against a model's vocabulary, within bounds of time and memory.

The same compiler runs in the API process, which refuses what it cannot compile, and in the engine
process, whose matchers follow what is generated. Knows neither requests nor sequences.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from server.grammar.grammar_error import GrammarError, line_of, said_plainly
from server.grammar.matcher import Matcher
from server.grammar.schemas import MAX_OPTIONAL
from server.grammar.translation import translated
from server.link.frames import Vocabulary
from server.link.sampling import Grammar

# The characters of a grammar's text: a schema of thousands of properties has fewer.
MAX_GRAMMAR_CHARS = 1 << 18
# A grammar's lexer takes 1 to 2 kB per state, and its states come up while it runs.
_LIMITS = LLParserLimits(
    max_lexer_states=16_000,
    # About 4900 required properties, which compile in a second.
    max_grammar_size=20_000,
    # Four for each of MAX_OPTIONAL properties, and some around them.
    max_items_in_row=4 * MAX_OPTIONAL + 100,
    # An error must not quote what was generated.
    verbose_errors=False,
)
_MAX_KEPT = 32
_BEGINNINGS = ("{", "[{")
# The bytes of the longest token that a text with only one continuation is written in.
_LONGEST_FORCED = 32


class Compiler:
    """Compiles for one vocabulary. Any thread may use it. Making one takes about a second.

    `vocab_size` is the model's: ids past those of the vocabulary have no text.
    """

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        tokens = _padded(vocabulary.tokens, vocab_size)
        self.special = {tokens[i].decode(errors="replace") for i in vocabulary.special_token_ids}
        special_ids = {i for i in (*vocabulary.special_token_ids, *eos_token_ids) if i < vocab_size}
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(tokens, sorted(special_ids), eos_token_ids[0])),
            n_vocab=vocab_size,
            eos_token=list(eos_token_ids),
        )
        self._kept: OrderedDict[Grammar, Matcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> Matcher:
        """A matcher before its first token. GrammarError, with a sentence for the client."""
        with self._lock:
            kept = self._kept.get(grammar)
        return (kept or self._compile(grammar)).copy()

    def _compile(self, grammar: Grammar) -> Matcher:
        if len(grammar.text) > MAX_GRAMMAR_CHARS:
            raise GrammarError(
                f"it has {len(grammar.text)} characters; at most {MAX_GRAMMAR_CHARS} are compiled"
            )
        inner = LLMatcher(
            self._tokenizer, translated(grammar, self.special), log_level=0, limits=_LIMITS
        )
        # Some limits show only when tokens are looked for.
        if inner.is_error() or not any(inner.compute_bitmask()) or inner.is_error():
            reason = inner.get_error()
            words = said_plainly(reason) or "no text of this vocabulary fits it"
            raise GrammarError(words, line_of(reason))
        if reason := self._fault_at_beginning(inner):
            raise GrammarError(reason)
        if reason := self._fault_at_beginning(inner):
            raise GrammarError(reason)
        matcher = Matcher(inner)
        with self._lock:
            self._kept[grammar] = matcher
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _fault_at_beginning(self, inner: LLMatcher) -> str:
        """Why no text can go on that has opened an object: most limits are met there, if at all."""
        for beginning in _BEGINNINGS:
            probe = inner.deep_copy()
            token_ids = self._tokenizer.tokenize_str(beginning)
            if probe.try_consume_tokens(token_ids) == len(token_ids):
                probe.compute_bitmask()
            if probe.is_error():
                return said_plainly(probe.get_error())
        return ""


class _Tokens:
    """What llguidance asks of a tokenizer.

    Where only one text may follow, it is written in the longest tokens: most often those that the
    model's own tokenizer takes, and always of the same bytes.
    """

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int], eos: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_ids
        self.eos_token_id = eos
        self.bos_token_id = None
        is_special = set(special_ids)
        self._ids = {t: i for i, t in enumerate(tokens) if t and i not in is_special}
        self._longest = min(max(map(len, self._ids), default=1), _LONGEST_FORCED)

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        start = 0
        token_ids: list[int] = []
        while start < len(data):
            end = min(start + self._longest, len(data))
            while data[start:end] not in self._ids:
                end -= 1
                if end == start:  # No token has this byte.
                    return token_ids
            token_ids.append(self._ids[data[start:end]])
            start = end
        return token_ids


def _padded(tokens: Sequence[bytes], vocab_size: int) -> list[bytes]:
    return [*tokens[:vocab_size], *[b""] * (vocab_size - len(tokens))]
