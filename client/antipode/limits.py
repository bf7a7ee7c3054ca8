"""How much of an answer the client takes, so that no server can fill the client's memory.

The prompt's tokens come back in one message, so a message must hold those of the longest context.
"""

from __future__ import annotations

from typing import Final

# One line and one event of a stream over HTTP, one message over gRPC.
MAX_MESSAGE_BYTES: Final = 32 << 20
# The body of a refusal, which holds one sentence.
MAX_REFUSAL_BYTES: Final = 64 << 10
# One choice, over all servers that answered; `max_tokens` of the request is a closer bound.
MAX_CHOICE_TOKENS: Final = 4 << 20
MAX_CHOICE_CHARACTERS: Final = 64 << 20
# What an error quotes of a server's words.
MAX_QUOTED_CHARACTERS: Final = 1000


def quoted(words: object) -> str:
    """A server's words as an error repeats them: printable, and cut to a bearable length."""
    text = str(words)[:MAX_QUOTED_CHARACTERS]
    return text if text.isprintable() else text.encode("unicode_escape").decode()
