"""Reasoning split from the answer, in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.chat.reasoning import FORMATS, ReasoningSplitter, begins_open, format_of
from tests.api.templates import DEEPSEEK, GEMMA4, LLAMA3, QWEN2, QWEN3

THINK, R1, CHANNEL = FORMATS["qwen3"], FORMATS["deepseek_r1"], FORMATS["gemma4"]


def split(*pieces: str, tags=THINK, is_open: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(tags, is_open=is_open)
    parts = [*(splitter.feed(piece) for piece in pieces), splitter.finish()]
    return "".join(thought for thought, _ in parts), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>\nHm.\n\nWell.\n</think>\n\nYes.", False, ("Hm.\n\nWell.", "Yes.")),
        ("\n<think>Hm.</think>Yes. ", False, ("Hm.", "Yes. ")),
        ("Hm.\n</think>\n\nYes.", True, ("Hm.", "Yes.")),
        ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),
        ("<think>Hm. I wo", False, ("Hm. I wo", "")),
        (" Yes, <think> is a tag.", False, ("", " Yes, <think> is a tag.")),
        ("<thi", False, ("", "<thi")),
        ("<think>a < b </thin", False, ("a < b </thin", "")),
    ],
)
def test_reasoning_is_split_from_the_answer(text, is_open, expected):
    assert split(text, is_open=is_open) == expected


def test_a_model_that_always_reasons_needs_no_first_tag():
    assert split("Hm.</think>Yes.", tags=R1, is_open=True) == ("Hm.", "Yes.")
    assert split("<think>\nHm.</think>Yes.", tags=R1, is_open=True) == ("Hm.", "Yes.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel>thought\nHm.\n\nWell.\n<channel|>Yes.", ("Hm.\n\nWell.", "Yes.")),
        ("<|channel>thought\n<channel|>Yes.", ("", "Yes.")),
        ("<|channel>thought<channel|>Yes.", ("", "Yes.")),
        ("<|channel>thoughtful<channel|>Yes.", ("thoughtful", "Yes.")),
        ("Yes.<|channel>thought\nHm.<channel|> Or no.", ("Hm.", "Yes.Or no.")),
        ("<|channel>thought\nA<channel|>b<|channel>thought\nC<channel|>", ("A\n\nC", "b")),
        ("Yes.<channel|>", ("", "Yes.")),
        ("<|channel>thought\nHm.\n<|tool_call>call:f{}", ("Hm.", "<|tool_call>call:f{}")),
        ("<|channel>thought\nHm. I wo", ("Hm. I wo", "")),
        ("Yes.", ("", "Yes.")),
    ],
)
def test_gemma_4_s_channel_is_split_from_the_answer_wherever_it_comes(text, expected):
    assert split(text, tags=CHANNEL) == split(*text, tags=CHANNEL) == expected


PIECES = st.lists(
    st.sampled_from(
        [
            *("<think>", "</think>", "<", "/think>", "thi", " ", "\n", "a"),
            *("<|channel>", "<channel|>", "thought", "ought", "channel|>", "<|tool_call>", "<|"),
        ]
    )
)


@given(PIECES, st.sampled_from([THINK, R1, CHANNEL]), st.booleans())
def test_pieces_give_what_the_whole_text_gives(pieces, tags, is_open):
    whole = "".join(pieces)
    expected = split(whole, tags=tags, is_open=is_open)
    assert split(*pieces, tags=tags, is_open=is_open) == expected
    assert split(*whole, tags=tags, is_open=is_open) == expected


def test_the_prompt_says_whether_an_answer_begins_inside_reasoning():
    assert begins_open(THINK, "<|im_start|>assistant\n<think>\n")
    assert not begins_open(THINK, "<|im_start|>assistant\n")
    assert not begins_open(THINK, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert begins_open(R1, "<|im_start|>assistant\n")
    assert not begins_open(R1, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert begins_open(CHANNEL, "<|turn>model\n<|channel>thought\n")
    assert not begins_open(CHANNEL, "<|turn>model\n<|channel>thought\n<channel|>")


def test_the_format_is_known_by_the_template():
    assert [format_of(template) for template in (QWEN3, DEEPSEEK)] == ["qwen3", "qwen3"]
    assert [format_of(template) for template in (QWEN2, LLAMA3)] == [None, None]
    assert format_of(GEMMA4) == "gemma4"
