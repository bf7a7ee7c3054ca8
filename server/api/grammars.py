"""Whether a request's grammar can be compiled, asked before the engine gets the request.

Compiling is done by threads of its own, so neither other requests nor their tokenization wait for
it. Knows neither transports nor how a grammar is followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from server.api.chat.tool_grammar import tool_at
from server.api.requests.validation import invalid
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError
from server.grammar.compiler import Compiler
from server.grammar.grammar_error import GrammarError
from server.link.frames import EngineInfo, Vocabulary
from server.link.sampling import Grammar

_THREADS = 2
_MAX_REMEMBERED = 256

_log = logging.getLogger(__name__)


class Grammars:
    """Belongs to the event loop. Which grammars have compiled is remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(_THREADS, "grammar")
        self._compiler: asyncio.Future[Compiler] | None = None
        self._compiled: OrderedDict[Grammar, None] = OrderedDict()

    def vocabulary(self) -> Vocabulary:
        """What a compiler must know of the tokenizer."""
        return Vocabulary(
            tokens=list(map(self._tokenizer.token_bytes, range(self._tokenizer.vocab_size))),
            special_token_ids=sorted(self._tokenizer.special_ids),
        )

    async def prepare(self, info: EngineInfo) -> None:
        """Make the compiler; other threads stand still meanwhile, for up to about a second."""
        if not info.eos_token_ids:
            return
        try:
            await self._compiler_for(info)
        except Exception:
            # Requests without a grammar are served all the same.
            _log.warning("structured output is off: its compiler cannot be made", exc_info=True)

    async def check(self, grammar: Grammar, asked_as: str, info: EngineInfo) -> None:
        """ApiError for a grammar that cannot be followed; `asked_as` names it in the request."""
        if not info.eos_token_ids:
            raise invalid(
                f"{asked_as} is not supported with this model: its files name no end token, so a"
                " finished text could not end",
                asked_as,
            )
        if grammar in self._compiled:
            return
        try:
            compiler = await self._compiler_for(info)
        except Exception as error:
            raise invalid(
                f"{asked_as} is not supported with this model's tokenizer: {error}", asked_as
            ) from error
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, compiler.compile, grammar)
        except GrammarError as error:
            raise _refused(grammar, asked_as, error) from None
        self._compiled[grammar] = None
        if len(self._compiled) > _MAX_REMEMBERED:
            self._compiled.popitem(last=False)

    async def _compiler_for(self, info: EngineInfo) -> Compiler:
        if self._compiler is None:
            self._compiler = asyncio.get_running_loop().run_in_executor(
                self._pool, Compiler, self.vocabulary(), info.vocab_size, info.eos_token_ids
            )
        # Whoever stops waiting must not stop the others.
        return await asyncio.shield(self._compiler)


def _refused(grammar: Grammar, asked_as: str, error: GrammarError) -> ApiError:
    """Names the request's field, or the tool whose schema is at fault."""
    if name := tool_at(grammar, error.line):
        return invalid(f"the schema of the tool {name!r} cannot be compiled: {error}", "tools")
    return invalid(f"{asked_as} cannot be compiled: {error}", asked_as)
