"""gpt-oss's answers, however their text is cut: reasoning, content and calls by channel."""

from __future__ import annotations

import pytest

from server.api.chat.answer import AnswerReader, read_whole
from server.api.tool_calls.harmony import HarmonyAnswer, is_harmony

THOUGHT = "<|channel|>analysis<|message|>Add them.<|end|>"
CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Oslo"}'
)
ANSWERS = {
    "reasoning and content": (
        THOUGHT + "<|start|>assistant<|channel|>final<|message|>It is 4.",
        ("Add them.", "It is 4.", []),
    ),
    "content alone": ("<|channel|>final<|message|>Hi <|there.", ("", "Hi <|there.", [])),
    "a call": (THOUGHT + CALL, ("Add them.", "", [("get_weather", '{"city": "Oslo"}')])),
    "a call whose name comes before the channel": (
        "<|start|>assistant to=functions.f<|channel|>commentary<|message|>{}<|call|>",
        ("", "", [("f", "{}")]),
    ),
    "two calls": (
        CALL + "<|call|>" + CALL,
        ("", "", [("get_weather", '{"city": "Oslo"}')] * 2),
    ),
    "a word before a call": (
        "<|channel|>commentary<|message|>One moment.<|end|>" + CALL,
        ("", "One moment.", [("get_weather", '{"city": "Oslo"}')]),
    ),
    "an answer that ends in its header": (
        THOUGHT + "<|start|>assistant<|chan",
        ("Add them.", "", []),
    ),
    "an answer without any format": ("It is <b>4</b>.", ("", "It is <b>4</b>.", [])),
    "a message that is not ended": (
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>4",
        ("Hm.", "4", []),
    ),
}


def read(reader, pieces):
    events = [event for piece in pieces for event in reader.feed(piece)]
    events += reader.finish("stop", None)
    whole = read_whole(Replay(events), "", "stop", None)
    calls = [(call.name, call.arguments) for call in whole.calls]
    return (whole.reasoning, whole.text, calls), whole.finish_reason


class Replay:
    """Gives events that another reader has read."""

    def __init__(self, events):
        self.events = events

    def feed(self, text):
        return self.events[:-1]

    def finish(self, finish_reason, stop_reason):
        return self.events[-1:]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_an_answer_is_read_the_same_however_it_is_cut(name, size):
    text, expected = ANSWERS[name]
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    found, finish_reason = read(AnswerReader(calls=HarmonyAnswer()), pieces)
    assert found == expected
    assert finish_reason == ("tool_calls" if expected[2] else "stop")


def test_calls_of_tools_that_nobody_offered_are_dropped():
    found, finish_reason = read(AnswerReader(calls=HarmonyAnswer(), max_calls=0), [THOUGHT + CALL])
    assert found == ("Add them.", "", [])
    assert finish_reason == "stop"


def test_content_is_told_as_soon_as_it_is_certain():
    reader = HarmonyAnswer()
    reader.feed("<|channel|>final<|message|>")
    assert [event.text for event in reader.feed("It is 4. <|e")] == ["It is 4. "]


def test_a_template_with_channels_is_recognised():
    assert is_harmony("{{ '<|start|>assistant<|channel|>final<|message|>' }}")
    assert not is_harmony("{{ '<|im_start|>' }}")
