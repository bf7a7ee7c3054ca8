"""What a client asks of the thinking, as the variables that a template has."""

from __future__ import annotations

import pytest

from server.api.chat.thinking import Thinking
from server.errors import ApiError
from tests.api.templates import DEEPSEEK, QWEN2, QWEN3

GRANITE = "{%- if thinking %}Think.{%- endif %}"
EFFORT = "{{ 'Reasoning: ' + reasoning_effort }}"


@pytest.mark.parametrize(
    ("template", "thinks", "variables"),
    [
        (QWEN3, True, {"enable_thinking": False}),
        (GRANITE, True, {"thinking": False}),
        (QWEN2, False, {}),
    ],
)
def test_thinking_is_switched_off_by_the_templates_own_name(template, thinks, variables):
    assert Thinking(is_on=False).variables(template, thinks=thinks) == variables


def test_a_model_that_always_thinks_cannot_be_asked_not_to():
    with pytest.raises(ApiError, match="cannot switch thinking off"):
        Thinking(is_on=False).variables(DEEPSEEK, thinks=True)


def test_thinking_that_cannot_be_switched_stays_as_the_model_has_it():
    assert Thinking(is_on=True).variables(DEEPSEEK, thinks=True) == {}


@pytest.mark.parametrize(
    "template",
    [
        "Show your thinking.",
        "{{ message.thinking }}",
        "{{ message['thinking'] }}",
        "{{ rethinking }}",
    ],
)
def test_a_word_or_a_field_is_no_variable(template):
    assert Thinking(is_on=True).variables(template, thinks=True) == {}


def test_an_effort_reaches_a_template_that_knows_it():
    assert Thinking(effort="low").variables(EFFORT, thinks=True) == {"reasoning_effort": "low"}


def test_an_effort_that_the_template_does_not_know_is_refused_by_the_clients_name():
    with pytest.raises(ApiError, match=r"reasoning\.effort is 'low'") as caught:
        Thinking(effort="low", effort_field="reasoning.effort").variables(QWEN3, thinks=True)
    assert caught.value.param == "reasoning.effort"


def test_an_effort_changes_nothing_where_the_model_does_not_think():
    assert Thinking(effort="low").variables(QWEN2, thinks=False) == {}
    assert Thinking(effort="low").variables(EFFORT, thinks=False) == {"reasoning_effort": "low"}


def test_the_effort_none_switches_thinking_off():
    assert Thinking.of_effort("none", "reasoning_effort").variables(QWEN3, thinks=True) == {
        "enable_thinking": False
    }
    with pytest.raises(ApiError) as caught:
        Thinking.of_effort("none", "reasoning_effort").variables(DEEPSEEK, thinks=True)
    assert caught.value.param == "reasoning_effort"


def test_nothing_asked_is_nothing_set():
    assert Thinking().variables(QWEN3 + EFFORT, thinks=True) == {}


@pytest.mark.parametrize("effort", [None, "", "auto", "default"])
def test_an_effort_that_leaves_it_to_the_model_asks_for_nothing(effort):
    asked = Thinking.of_effort(effort, "reasoning_effort")
    assert asked.variables(QWEN3 + EFFORT, thinks=True) == {}


def test_a_word_that_is_no_effort_is_refused_with_those_that_are():
    with pytest.raises(ApiError, match="'hgih'; it must be one of none, minimal, low") as caught:
        Thinking.of_effort("hgih", "reasoning.effort")
    assert caught.value.param == "reasoning.effort"
