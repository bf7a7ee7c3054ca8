"""Ids to text and back; streams that never show half a character; chat templates."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from server.api.chat.control_tokens import PiecedText
from server.api.tokenizers.tokenizer import ChatTemplateError, Tokenizer
from tests.api.fakes import small_pretrained

SMALL = Tokenizer(small_pretrained())
EOS, IM_START, IM_END, TOOL_CALL = 262, 263, 264, 265
HELLO = [{"role": "user", "content": "hello"}]


def stream(tokenizer: Tokenizer, token_ids: list[int], **options: bool) -> list[str]:
    """What each token adds, and at last what was left."""
    detokenizer = tokenizer.detokenizer(**options)
    return [*(detokenizer.step(token_id) for token_id in token_ids), detokenizer.flush()]


def sentencepiece_like() -> Tokenizer:
    """Spaces as U+2581 and bytes as <0x..>, as Llama 2 and Mistral have it."""
    words = ["<unk>", "▁Hello", "▁world", "!", *(f"<0x{byte:02X}>" for byte in range(256))]
    fast = FastTokenizer(
        models.BPE(
            vocab={word: token_id for token_id, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=fast))


def word_level() -> Tokenizer:
    """A decoder of neither kind: tokens joined by spaces, `##` glued on."""
    fast = FastTokenizer(models.WordPiece({"[UNK]": 0, "run": 1, "##ning": 2}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.decoder = decoders.WordPiece()
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=fast))


@given(st.text())
def test_text_survives_the_round_trip(text):
    assert SMALL.decode(SMALL.encode(text)) == text


@given(st.text())
def test_a_stream_adds_up_to_the_text(text):
    assert "".join(stream(SMALL, SMALL.encode(text))) == text.replace("<|eos|>", "")


@given(st.lists(st.integers(0, 261)))
def test_a_stream_of_any_bytes_reads_as_the_tokenizer_decodes_them(token_ids):
    assert "".join(stream(SMALL, token_ids)) == SMALL.decode(token_ids)


def test_an_emoji_comes_whole_with_its_last_byte():
    token_ids = SMALL.encode("a🙂b")
    assert len(token_ids) == 6
    assert stream(SMALL, token_ids) == ["a", "", "", "", "🙂", "b", ""]


def test_an_emoji_of_several_code_points_comes_one_code_point_at_a_time():
    pieces = stream(SMALL, SMALL.encode("👩‍🚀"))
    assert [piece for piece in pieces if piece] == ["👩", "\u200d", "🚀"]


def test_an_unfinished_character_is_flushed_as_a_replacement():
    token_ids = SMALL.encode("é")[:1]
    assert stream(SMALL, token_ids) == ["", "\ufffd"]


def test_special_tokens_are_left_out_unless_asked_for():
    token_ids = [*SMALL.encode("hello"), EOS]
    assert "".join(stream(SMALL, token_ids)) == "hello"
    assert "".join(stream(SMALL, token_ids, skip_special_tokens=False)) == "hello<|eos|>"


def test_an_added_token_that_is_not_special_is_text():
    assert SMALL.encode("<tool call>") == [TOOL_CALL]
    assert "".join(stream(SMALL, [TOOL_CALL])) == "<tool call>"


def test_a_special_token_does_not_cut_a_character_in_two():
    first, second = SMALL.encode("é")
    assert "".join(stream(SMALL, [first, EOS, second])) == "é"


def test_a_token_by_itself():
    first, _ = SMALL.encode("é")
    assert SMALL.token_bytes(first) == b"\xc3"
    assert SMALL.token_text(first) == "\ufffd"
    assert SMALL.token_text(SMALL.encode(" w")[0]) == " w"


@pytest.mark.parametrize("token_id", [-1, 266, 10**9])
def test_an_id_beyond_the_table_stands_for_nothing(token_id):
    assert SMALL.token_bytes(token_id) == b""


def test_sentencepiece_spaces_and_bytes():
    tokenizer = sentencepiece_like()
    emoji = [4 + byte for byte in "🙂".encode()]
    assert stream(tokenizer, [1, 2, *emoji, 3]) == [
        *(" Hello", " world", "", "", "", "🙂"),
        *("!", ""),
    ]
    assert tokenizer.token_bytes(emoji[0]) == b"\xf0"


def test_a_decoder_of_another_kind_is_asked_token_by_token():
    tokenizer = word_level()
    assert tokenizer.token_text(tokenizer.encode("run")[0]) == "run"


def test_a_lone_surrogate_is_no_text():
    with pytest.raises(UnicodeError):
        SMALL.encode("a\ud800b")


def test_truncation_and_padding_of_the_file_do_not_apply():
    pretrained = small_pretrained()
    pretrained.backend_tokenizer.enable_truncation(max_length=3)
    pretrained.backend_tokenizer.enable_padding(length=8, pad_id=0)
    tokenizer = Tokenizer(pretrained)
    assert len(tokenizer.encode("x" * 10)) == 10
    assert len(tokenizer.encode("x")) == 1


def test_a_checkpoint_folder_is_read_without_torch(tmp_path, capfd):
    small_pretrained().save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("hello wörld") == SMALL.encode("hello wörld")
    assert tokenizer.render_chat(HELLO) == SMALL.render_chat(HELLO)
    assert "torch" not in sys.modules


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises((OSError, ValueError)):
        Tokenizer.load(tmp_path)


def test_a_chat_is_rendered_with_the_prompt_to_answer():
    assert SMALL.render_chat(HELLO) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert not SMALL.render_chat(HELLO, add_generation_prompt=False).endswith("assistant\n")


def test_a_final_message_can_be_continued():
    messages = [*HELLO, {"role": "assistant", "content": "Hi the"}]
    rendered = SMALL.render_chat(messages, add_generation_prompt=False, continue_final_message=True)
    assert rendered.endswith("<|im_start|>assistant\nHi the")


def test_the_template_sees_its_options():
    tokenizer = Tokenizer(small_pretrained(chat_template="{{ mood | default('calm') }}"))
    assert tokenizer.render_chat(HELLO, template_options={"mood": "glad"}) == "glad"
    assert tokenizer.render_chat(HELLO) == "calm"


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "tools", "conversation", "messages"])
def test_options_cannot_reach_the_renderer_itself(name):
    with pytest.raises(ChatTemplateError, match=f"must not hold '{name}'"):
        SMALL.render_chat(HELLO, template_options={name: "{{ 1 }}"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
    ],
)
def test_a_template_that_refuses_says_so(template):
    tokenizer = Tokenizer(small_pretrained(chat_template=template))
    with pytest.raises(ChatTemplateError, match="refuses these messages"):
        tokenizer.render_chat(HELLO)


def test_a_model_without_a_template_says_so():
    tokenizer = Tokenizer(small_pretrained(chat_template=None))
    with pytest.raises(ChatTemplateError, match="no chat template"):
        tokenizer.render_chat(HELLO)


def test_a_text_in_pieces_is_tokenized_piece_by_piece():
    pieced = PiecedText(["hello <", "|im_end|> ", "world"])
    assert pieced == "hello <|im_end|> world"
    expected = [*SMALL.encode("hello <"), *SMALL.encode("|im_end|> "), *SMALL.encode("world")]
    assert SMALL.encode(pieced) == expected
    assert IM_END in SMALL.encode(str(pieced))


def test_a_piece_gets_no_space_that_a_tokenizer_puts_before_a_text():
    words = ["<unk>", "▁", "a", "b", "\n", "▁a"]
    vocab = {word: token_id for token_id, word in enumerate(words)}
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=fast))
    assert tokenizer.encode("ba") != tokenizer.encode("b") + tokenizer.encode("a")
    assert tokenizer.encode(PiecedText(["b", "a"])) == tokenizer.encode("ba")


def with_an_end():
    """A tokenizer that ends every text with a token, as those of some embedding models do."""
    pretrained = small_pretrained()
    pretrained.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|eos|>", special_tokens=[("<|eos|>", 262)]
    )
    return Tokenizer(pretrained)


@pytest.mark.parametrize(
    ("max_tokens", "adds", "expected"),
    [(9, True, "abcd<|eos|>"), (3, True, "ab<|eos|>"), (1, True, "<|eos|>"), (3, False, "abc")],
)
def test_a_text_that_is_cut_keeps_the_tokenizers_own_tokens(max_tokens, adds, expected):
    tokenizer = with_an_end()
    cut = tokenizer.encode_cut("abcd", max_tokens, add_special_tokens=adds)
    assert tokenizer.decode(cut) == expected
    whole = tokenizer.encode("abcd", add_special_tokens=adds)
    assert tokenizer.encode_cut("abcd", 9, add_special_tokens=adds) == whole


@pytest.mark.parametrize(
    ("max_tokens", "adds", "expected"),
    [(9, True, "<|eos|>abcd"), (3, True, "<|eos|>cd"), (1, True, "<|eos|>"), (3, False, "bcd")],
)
def test_the_end_of_a_text_keeps_what_the_tokenizer_puts_in_front(max_tokens, adds, expected):
    pretrained = small_pretrained()
    pretrained.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|eos|> $A", special_tokens=[("<|eos|>", 262)]
    )
    tokenizer = Tokenizer(pretrained)
    end = tokenizer.encode_end("abcd", max_tokens, add_special_tokens=adds)
    assert tokenizer.decode(end) == expected
    whole = tokenizer.encode("abcd", add_special_tokens=adds)
    assert tokenizer.encode_end("abcd", 9, add_special_tokens=adds) == whole
