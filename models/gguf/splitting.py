"""The rules that split text before byte-level BPE, by their names in GGUF files.

A file has only the name of its rule (`tokenizer.ggml.pre`); the rules come from the models'
published tokenizers. Knows no vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from models.gguf.reader import GgufError


@dataclass(frozen=True, slots=True, kw_only=True)
class SplittingRule:
    """`ignore_merges`: a piece that is itself a token is not merged from smaller tokens.

    `nfc`: text is normalized first. `add_bos` applies if the file does not set it.
    """

    pre_tokenizer: pre_tokenizers.PreTokenizer
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_GPT2 = ("gpt-2", "olmo", "mpt", "phi-2")
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
_QWEN2_NAMES = ("qwen2", "deepseek-r1-qwen")
_KNOWN = (*_DIGITS, *_GPT2, *_LLAMA3_NAMES, *_QWEN2_NAMES, "tekken")


def rule(name: str) -> SplittingRule:
    """The rule of this name; for an unknown name, GgufError lists the known ones."""
    if name in _DIGITS:
        # GPT-2's rule, but every digit is its own piece.
        digits = pre_tokenizers.Digits(individual_digits=True)
        return SplittingRule(pre_tokenizer=pre_tokenizers.Sequence([digits, _gpt2()]))
    if name in _GPT2:
        return SplittingRule(pre_tokenizer=_gpt2())
    if name in _LLAMA3_NAMES:
        return SplittingRule(pre_tokenizer=_regex(_LLAMA3), ignore_merges=True, add_bos=True)
    if name in _QWEN2_NAMES:
        return SplittingRule(pre_tokenizer=_regex(_QWEN2), nfc=True)
    if name == "tekken":
        return SplittingRule(pre_tokenizer=_regex(_TEKKEN), ignore_merges=True, add_bos=True)
    raise GgufError(f"pre-tokenizer {name!r} is not supported; known: {sorted(_KNOWN)}")


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _regex(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
