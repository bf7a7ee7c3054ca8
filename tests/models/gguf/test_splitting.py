from __future__ import annotations

import pytest

from models.gguf import splitting
from models.gguf.reader import GgufError

TEXT = "I've 1234 cats,\n\n  don't WE?"


def pieces(name, text):
    return [
        text[start:end]
        for _, (start, end) in splitting.rule(name).pre_tokenizer.pre_tokenize_str(text)
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "gpt-2",
            ["I", "'ve", " 1234", " cats", ",", "\n\n ", " don", "'t", " WE", "?"],
        ),
        (
            "smollm",
            ["I", "'ve", " ", "1", "2", "3", "4", " cats", ",", "\n\n ", " don", "'t", " WE", "?"],
        ),
        (
            "llama-bpe",
            ["I", "'ve", " ", "123", "4", " cats", ",\n\n", " ", " don", "'t", " WE", "?"],
        ),
        (
            "qwen2",
            ["I", "'ve", " ", "1", "2", "3", "4", " cats", ",\n\n", " ", " don", "'t", " WE", "?"],
        ),
        (
            "tekken",
            ["I", "'ve", " ", "1", "2", "3", "4", " cats", ",\n\n", " ", " don", "'t", " WE", "?"],
        ),
    ],
)
def test_every_rule_cuts_its_own_way(name, expected):
    assert pieces(name, TEXT) == expected


def test_contractions_in_capitals_belong_to_the_newer_rules_only():
    assert pieces("llama-bpe", "IT'LL") == ["IT", "'LL"]
    assert pieces("gpt-2", "IT'LL") == ["IT", "'", "LL"]


@pytest.mark.parametrize("name", ["llama3", "llama-v3", "deepseek-r1-qwen", "starcoder", "olmo"])
def test_other_names_of_the_same_rules(name):
    assert pieces(name, "ab cd") == ["ab", " cd"]


def test_nothing_of_a_text_is_lost():
    text = "naïve café 漢字かな 한국어 🎉👩‍👩‍👧 \t\r\n x = {'a': 1.5e-3}  "
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"):
        assert "".join(pieces(name, text)) == text, name


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(GgufError, match=r"'kimi-k2' is not supported; known: .*'smollm'"):
        splitting.rule("kimi-k2")
