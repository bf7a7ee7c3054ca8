"""A checkpoint's tokenizer: text to ids, ids to text, chat templates, and each token's bytes.

The tokenizer's own decoder rule gives the bytes of every token. So a stream is detokenised token by
token without looking back: the bytes are joined and decoded as UTF-8. Nothing here runs a model or
needs torch.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from server.api.chat.control_tokens import PiecedText
from server.api.chat.template import ChatTemplateError
from server.api.tokenizers.tokenizer_files import load_pretrained

type Messages = Sequence[Mapping[str, Any]]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Wraps a transformers tokenizer; safe to use from several threads."""

    def __init__(self, pretrained: Any) -> None:
        self._pretrained = pretrained
        self._fast: FastTokenizer = pretrained.backend_tokenizer
        # A tokenizer file may carry the truncation of its training, which would cut prompts.
        self._fast.no_truncation()
        self._fast.no_padding()
        self.special_ids = frozenset(pretrained.all_special_ids) | {
            token_id
            for token_id, token in self._fast.get_added_tokens_decoder().items()
            if token.special
        }
        # The renderer's own parameters have the same namespace as the template's variables.
        parameters = signature(pretrained.apply_chat_template).parameters
        self._reserved_options = frozenset(parameters) | {"messages"}
        self._bytes = _token_bytes(self._fast)
        self.max_token_chars = max(map(len, self._bytes), default=1)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a checkpoint folder's tokenizer files. TokenizerError if they cannot be read."""
        return cls(load_pretrained(Path(folder)))

    @property
    def vocab_size(self) -> int:
        """The number of ids, added tokens included."""
        return len(self._bytes)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`. UnicodeError for lone surrogates.

        Lets other threads run, because only batches are encoded without the interpreter lock.
        """
        text.encode()
        if isinstance(text, PiecedText) and len(text.pieces) > 1:
            return self._encode_pieces(text.pieces, add_special_tokens=add_special_tokens)
        return self._encode(text, add_special_tokens=add_special_tokens)

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        [encoding] = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def _encode_pieces(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        line_break = self._encode("\n")
        ids = self._encode(pieces[0], add_special_tokens=add_special_tokens)
        for piece in pieces[1:]:
            ids += self._encode_inner(piece, line_break)
        return ids

    def _encode_inner(self, piece: str, line_break: list[int]) -> list[int]:
        """Encode behind a line break: some tokenizers put a space before the start of a text."""
        ids = self._encode("\n" + piece)
        if ids[: len(line_break)] == line_break:
            return ids[len(line_break) :]
        return self._encode(piece)

    def encode_cut(
        self, text: str, max_tokens: int, *, add_special_tokens: bool = True
    ) -> list[int]:
        """As `encode`, but the text's last tokens are left out where there are more than these.

        The tokenizer's own special tokens stay: a vector may be read at the last of them.
        """
        text.encode()
        encoding = self._fast.encode(text, add_special_tokens=False)
        own = self._fast.num_special_tokens_to_add(False) if add_special_tokens else 0
        encoding.truncate(max(0, max_tokens - own))
        if add_special_tokens:
            encoding = self._fast.post_process(encoding)
        return encoding.ids[:max_tokens]

    def encode_end(
        self, text: str, max_tokens: int, *, add_special_tokens: bool = True
    ) -> list[int]:
        """As `encode`, but the text's first tokens are left out where there are more than these.

        The special tokens that the tokenizer puts in front stay.
        """
        ids = self.encode(text, add_special_tokens=add_special_tokens)
        own = self._encode("", add_special_tokens=add_special_tokens)
        in_front = takewhile(lambda pair: pair[0] == pair[1], zip(own, ids, strict=False))
        num_own = min(max_tokens, len(list(in_front)))
        num_rest = max_tokens - num_own
        return [*ids[:num_own], *ids[max(num_own, len(ids) - num_rest) :]]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of a whole sequence, as the tokenizer itself decodes it; lets threads run."""
        [text] = self._fast.decode_batch([list(token_ids)], skip_special_tokens=skip_special_tokens)
        return text

    @property
    def template_text(self) -> str:
        """The source of the chat template, of all of them if there are several."""
        template = self._pretrained.chat_template or ""
        return template if isinstance(template, str) else "\n".join(template.values())

    @property
    def control_tokens(self) -> frozenset[str]:
        """The texts of special tokens, and of added tokens that the chat template writes."""
        template = self.template_text
        return frozenset(
            token.content
            for token_id, token in self._fast.get_added_tokens_decoder().items()
            if token_id in self.special_ids or (token.content.strip() and token.content in template)
        )

    def special_id(self, text: str) -> int | None:
        """The id of a token that a detokenizer skips; None for any other text."""
        token_id = self._fast.token_to_id(text)
        return token_id if token_id in self.special_ids else None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of the token; empty for an id that only pads the vocabulary."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself; a part of a UTF-8 character reads as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A detokenizer for one stream of tokens."""
        skipped = self.special_ids if skip_special_tokens else frozenset()
        return Detokenizer(self.token_bytes, skipped)

    def render_chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the chat template makes of these messages. Raises ChatTemplateError."""
        if not self._pretrained.chat_template:
            raise ChatTemplateError("this model has no chat template; use the completions endpoint")
        if reserved := self._reserved_options.intersection(template_options or ()):
            raise ChatTemplateError(f"chat_template_kwargs must not hold {min(reserved)!r}")
        try:
            rendered: str = self._pretrained.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(template_options or {}),
            )
        except Exception as error:
            # The template is a program that runs on the client's messages: its errors are theirs.
            raise ChatTemplateError(
                f"the model's chat template refuses these messages: {error}"
            ) from error
        return rendered


class Detokenizer:
    """Turns one stream of tokens into text, without ever splitting a character."""

    __slots__ = ("_decoder", "_skipped", "_token_bytes")

    def __init__(self, token_bytes: Callable[[int], bytes], skipped: frozenset[int]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._token_bytes = token_bytes
        self._skipped = skipped

    def step(self, token_id: int) -> str:
        """The text that this token completes, often empty."""
        if token_id in self._skipped:
            return ""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """The rest when no more tokens come: U+FFFD for an unfinished character."""
        return self._decoder.decode(b"", final=True)


def _token_bytes(fast: FastTokenizer) -> list[bytes]:
    """The bytes of each token, by id. Added tokens are their own text; others use the decoder."""
    to_bytes = _decoding_rule(fast)
    vocab = fast.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, token_id in vocab.items():
        table[token_id] = to_bytes(token, token_id)
    for token_id, added in fast.get_added_tokens_decoder().items():
        table[token_id] = added.content.encode()
    return table


def _decoding_rule(fast: FastTokenizer) -> Callable[[str, int], bytes]:
    """The rule that turns the vocabulary's spelling of a token into bytes.

    Byte-level vocabularies (GPT-2, Llama 3, Qwen) spell each byte as a character. Sentencepiece
    vocabularies (Llama 2, Mistral, Gemma) spell a space as U+2581 and rare bytes as `<0xE2>`. Any
    other decoder decodes each token by itself.
    """
    kinds = set(_decoder_kinds(json.loads(fast.decoder.__getstate__()) if fast.decoder else {}))
    if "ByteLevel" in kinds:
        byte_of = _byte_of_character()
        return lambda token, _: _from_byte_level(token, byte_of)
    if kinds & {"ByteFallback", "Metaspace"}:
        return lambda token, _: _from_sentencepiece(token)
    return lambda _, token_id: fast.decode([token_id], skip_special_tokens=False).encode()


def _decoder_kinds(decoder: Mapping[str, Any]) -> list[str]:
    inner = [kind for part in decoder.get("decoders", ()) for kind in _decoder_kinds(part)]
    return [decoder.get("type", ""), *inner]


def _from_byte_level(token: str, byte_of: Mapping[str, int]) -> bytes:
    try:
        return bytes(byte_of[character] for character in token)
    except KeyError:
        return token.encode()


def _from_sentencepiece(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    return token.replace("\u2581", " ").encode()


def _byte_of_character() -> Mapping[str, int]:
    """GPT-2's spelling of bytes: printable bytes as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    shifted = {chr(0x100 + position): byte for position, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
