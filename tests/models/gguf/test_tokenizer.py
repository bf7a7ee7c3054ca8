from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.gguf.reader import GgufError, GgufFile
from models.gguf.tokenizer import score_merges, tokenizer, tokenizer_config
from tests.models.gguf.files import MERGES, TOKENS, model_file


def open_file(model, tmp_path):
    return GgufFile(model.write(tmp_path / "m.gguf"))


def tokens_of(made, text):
    return made.encode(text).tokens


def test_byte_level_bpe_merges_within_the_pieces_of_the_rule(tmp_path):
    made = tokenizer(open_file(model_file(), tmp_path))
    assert tokens_of(made, "the the 12") == ["t", "he", "Ġthe", "Ġ", "1", "2"]


def test_a_rule_that_keeps_numbers_together_lets_them_merge(tmp_path):
    model = model_file()
    model.metadata["tokenizer.ggml.pre"] = "gpt-2"
    made = tokenizer(open_file(model, tmp_path))
    assert tokens_of(made, "12") == ["12"]


def test_a_piece_that_is_a_token_needs_no_merges_under_llama_3s_rule(tmp_path):
    model = model_file()
    model.metadata["tokenizer.ggml.pre"] = "llama-bpe"
    model.metadata["tokenizer.ggml.tokens"] = [*TOKENS, "xyz"]
    model.metadata["tokenizer.ggml.token_type"] += [1]
    made = tokenizer(open_file(model, tmp_path))
    assert made.encode("xyz", add_special_tokens=False).tokens == ["xyz"]


def test_control_tokens_are_taken_whole_and_left_out_of_text(tmp_path):
    made = tokenizer(open_file(model_file(), tmp_path))
    encoded = made.encode("<|start|>the<|end|>")
    assert encoded.tokens == ["<|start|>", "t", "he", "<|end|>"]
    assert made.decode(encoded.ids) == "the"
    assert made.decode(encoded.ids, skip_special_tokens=False) == "<|start|>the<|end|>"


def test_user_defined_tokens_are_taken_whole_but_are_text(tmp_path):
    model = model_file()
    model.metadata["tokenizer.ggml.tokens"] = [*TOKENS, "<think>"]
    model.metadata["tokenizer.ggml.token_type"] += [4]
    made = tokenizer(open_file(model, tmp_path))
    assert made.encode("<think>").ids == [len(TOKENS)]
    assert made.decode([len(TOKENS)]) == "<think>"


@pytest.mark.parametrize(
    ("pre", "said", "expected"),
    [
        ("smollm", None, False),
        ("smollm", True, True),
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
    ],
)
def test_the_start_token_comes_when_the_file_or_its_rule_says_so(tmp_path, pre, said, expected):
    model = model_file()
    model.metadata["tokenizer.ggml.pre"] = pre
    if said is not None:
        model.metadata["tokenizer.ggml.add_bos_token"] = said
    file = open_file(model, tmp_path)
    assert (tokens_of(tokenizer(file), "he")[0] == "<|start|>") is expected
    assert tokenizer_config(file)["add_bos_token"] is expected


def test_the_end_token_comes_only_when_the_file_says_so(tmp_path):
    model = model_file()
    model.metadata["tokenizer.ggml.add_eos_token"] = True
    assert tokens_of(tokenizer(open_file(model, tmp_path)), "he") == ["he", "<|end|>"]


def test_the_config_names_the_special_tokens_and_has_the_chat_template(tmp_path):
    config = tokenizer_config(open_file(model_file(), tmp_path))
    assert config["bos_token"] == "<|start|>"
    assert config["eos_token"] == "<|end|>"
    assert config["chat_template"] == "{{ messages[0]['content'] }}"
    assert "pad_token" not in config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "bert", "tokenizer 'bert' is not supported"),
        ("pre", "kimi-k2", "pre-tokenizer 'kimi-k2'"),
        ("merges", [*MERGES, "q qq"], "do not fit together"),
        ("tokens", [*TOKENS[:-1], TOKENS[-2]], "1 tokens stand in the vocabulary twice"),
    ],
)
def test_faults_are_named(tmp_path, key, value, message):
    model = model_file()
    model.metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(GgufError, match=message):
        tokenizer(open_file(model, tmp_path))


SP_PIECES = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "ca", "cab", "▁b", "cc"]
SP_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SP_PIECES]


def sentencepiece_file(**changes):
    model = model_file()
    order = random.Random(7).sample(range(len(SP_PIECES)), len(SP_PIECES))
    model.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": SP_TOKENS,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in order],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(SP_PIECES),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }
    del model.metadata["tokenizer.ggml.merges"], model.metadata["tokenizer.ggml.pre"]
    return model


def join_by_score(text, scores):
    """SentencePiece's own way: again and again, join the best-scored (then leftmost) neighbours."""
    pieces = list(text)
    while True:
        joins = [
            (-scores[left + right], i)
            for i, (left, right) in enumerate(pairwise(pieces))
            if left + right in scores
        ]
        if not joins:
            return pieces
        _, i = min(joins)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    return open_file(sentencepiece_file(), tmp_path_factory.mktemp("sp"))


@given(text=st.text(alphabet="abc ", min_size=1))
def test_scores_join_pieces_as_sentencepiece_does(sentencepiece, text):
    scores = dict(zip(SP_TOKENS, sentencepiece.required("tokenizer.ggml.scores"), strict=True))
    expected = join_by_score("▁" + text.replace(" ", "▁"), {p: scores[p] for p in SP_PIECES})
    made = tokenizer(sentencepiece)
    assert made.encode(text, add_special_tokens=False).tokens == expected


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁"), max_size=20))
def test_sentencepiece_gives_every_text_back(sentencepiece, text):
    made = tokenizer(sentencepiece)
    assert made.decode(made.encode(text).ids) == text


def test_an_unknown_character_becomes_its_bytes(sentencepiece):
    encoded = tokenizer(sentencepiece).encode("é")
    assert encoded.tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]


def test_no_space_goes_in_front_when_the_file_says_so(tmp_path):
    made = tokenizer(open_file(sentencepiece_file(add_space_prefix=False), tmp_path))
    encoded = made.encode("b a", add_special_tokens=False)
    assert encoded.tokens == ["b", "▁a"]
    assert made.decode(encoded.ids) == "b a"


def test_merges_run_from_the_best_score_to_the_worst():
    vocab = {piece: i for i, piece in enumerate(["a", "b", "ab", "ba", "aba"])}
    assert score_merges(vocab, [0, 0, -2.0, -1.0, -3.0]) == [
        ("b", "a"),
        ("a", "b"),
        ("a", "ba"),
        ("ab", "a"),
    ]
