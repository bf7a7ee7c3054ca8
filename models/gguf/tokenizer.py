"""The tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

The families have two kinds of tokenizers. Byte-level BPE: the file only names its splitting rule
(`splitting`). SentencePiece: it has scores in place of merges. Both become a Hugging Face BPE; this
module refuses any other kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from models.gguf import splitting
from models.gguf.reader import GgufError, GgufFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "▁"

type _Maker = Callable[[GgufFile], Tokenizer]


def tokenizer(file: GgufFile) -> Tokenizer:
    """The whole tokenizer; GgufError for an unknown kind or an invalid vocabulary."""
    kinds: dict[str, _Maker] = {"gpt2": _byte_level, "llama": _sentencepiece}
    kind = file.required("tokenizer.ggml.model")
    if kind not in kinds:
        raise GgufError(f"tokenizer {kind!r} is not supported; known: {sorted(kinds)}")
    made = kinds[kind](file)
    _add_special_tokens(made, file)
    return made


def tokenizer_config(file: GgufFile) -> dict[str, Any]:
    """The content of tokenizer_config.json, with the chat template."""
    tokens = file.required("tokenizer.ggml.tokens")
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config = {
        name: tokens[file.metadata[key]]
        for name, kind in keys.items()
        if (key := f"tokenizer.ggml.{kind}_token_id") in file.metadata
    }
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(file),
        "add_eos_token": bool(file.metadata.get("tokenizer.ggml.add_eos_token", False)),
    }
    if template := file.metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _byte_level(file: GgufFile) -> Tokenizer:
    rule = splitting.rule(file.required("tokenizer.ggml.pre"))
    merges = [tuple(merge.split(" ", 1)) for merge in file.required("tokenizer.ggml.merges")]
    made = Tokenizer(_bpe(_vocab(file), merges, ignore_merges=rule.ignore_merges))
    if rule.nfc:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = rule.pre_tokenizer
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(file: GgufFile) -> Tokenizer:
    """SentencePiece's BPE: spaces become ▁, unknown characters their UTF-8 bytes."""
    vocab = _vocab(file)
    merges = score_merges(vocab, file.required("tokenizer.ggml.scores"))
    unknown = _token(file, "unknown")
    made = Tokenizer(_bpe(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token=unknown))
    to_space = normalizers.Replace(" ", _SPACE)
    back = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        made.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), to_space])
        back.append(decoders.Strip(content=" ", left=1))
    else:
        made.normalizer = to_space
    made.decoder = decoders.Sequence(back)
    return made


def score_merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges, best first, that give the same tokens as joining the best-scored neighbours.

    Every way to join two pieces into a third is a merge with the third piece's score.
    """
    merges = [
        (-scores[token_id], token_id, cut, piece)
        for piece, token_id in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return [(piece[:cut], piece[cut:]) for _, _, cut, piece in sorted(merges)]


def _bpe(vocab: dict[str, int], merges: list[Any], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:  # the extension module raises nothing narrower
        raise GgufError(f"the vocabulary and merges do not fit together: {error}") from error


def _vocab(file: GgufFile) -> dict[str, int]:
    tokens = file.required("tokenizer.ggml.tokens")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise GgufError(f"{len(tokens) - len(vocab)} tokens stand in the vocabulary twice")
    return vocab


def _add_special_tokens(made: Tokenizer, file: GgufFile) -> None:
    tokens = file.required("tokenizer.ggml.tokens")
    types = file.required("tokenizer.ggml.token_type")
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_UNKNOWN, _CONTROL):
            made.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            made.add_tokens([AddedToken(token, special=False, normalized=False)])
    made.post_processor = _post_processor(file)


def _post_processor(file: GgufFile) -> processors.PostProcessor:
    before = [_token(file, "bos")] if _adds_bos(file) else []
    after = [_token(file, "eos")] if file.metadata.get("tokenizer.ggml.add_eos_token") else []
    ids = file.required("tokenizer.ggml.tokens")
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B", *after],
        special_tokens=[(token, ids.index(token)) for token in before + after],
    )


def _adds_bos(file: GgufFile) -> bool:
    if "tokenizer.ggml.add_bos_token" in file.metadata:
        return bool(file.metadata["tokenizer.ggml.add_bos_token"])
    if file.required("tokenizer.ggml.model") == "llama":
        return True
    return splitting.rule(file.required("tokenizer.ggml.pre")).add_bos


def _token(file: GgufFile, kind: str) -> str:
    token_id = file.required(f"tokenizer.ggml.{kind}_token_id")
    return str(file.required("tokenizer.ggml.tokens")[token_id])
