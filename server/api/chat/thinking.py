"""What a client asks of the model's thinking, as variables of the chat template.

Templates name their switch and their effort differently, and many have none. What a template cannot
do is refused, unless it changes nothing. Knows neither a protocol nor a tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.errors import ApiError, ErrorKind

# The names of the switch in published templates, the most usual first.
_SWITCHES = ("enable_thinking", "thinking")
_EFFORT = "reasoning_effort"
# The efforts of OpenAI and of published templates, the least first.
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# What frameworks send for "as you like".
_NO_EFFORT = ("", "auto", "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """None leaves it to the template. `switch_field` and `effort_field` are the client's names."""

    is_on: bool | None = None
    effort: str | None = None
    switch_field: str = "thinking"
    effort_field: str = "effort"

    @classmethod
    def of_effort(cls, effort: str | None, field: str) -> Thinking:
        """What OpenAI's effort asks: `none` is an answer without thinking. May raise ApiError."""
        if effort is None or effort in _NO_EFFORT:
            return cls()
        if effort not in _EFFORTS:
            known = ", ".join(_EFFORTS)
            raise _refused(f"{field} is {effort[:64]!r}; it must be one of {known}", field)
        if effort == "none":
            return cls(is_on=False, switch_field=field)
        return cls(effort=effort, effort_field=field)

    def variables(self, template: str, *, thinks: bool) -> dict[str, object]:
        """The template's variables. `thinks`: the model writes reasoning unless it is stopped."""
        return self._switch(template, thinks=thinks) | self._effort(template, thinks=thinks)

    def _switch(self, template: str, *, thinks: bool) -> dict[str, object]:
        if self.is_on is None:
            return {}
        name = next((switch for switch in _SWITCHES if _reads(template, switch)), None)
        if name is not None:
            return {name: self.is_on}
        if thinks and not self.is_on:
            raise _refused(
                f"{self.switch_field} asks for an answer without thinking, but the model's chat"
                " template cannot switch thinking off",
                self.switch_field,
            )
        return {}

    def _effort(self, template: str, *, thinks: bool) -> dict[str, object]:
        """A model that does not think has nothing that an effort could change."""
        if self.effort is None:
            return {}
        if _reads(template, _EFFORT):
            return {_EFFORT: self.effort}
        if thinks:
            raise _refused(
                f"{self.effort_field} is {self.effort!r}, but the model's chat template knows no"
                " effort; leave it out",
                self.effort_field,
            )
        return {}


def _reads(template: str, variable: str) -> bool:
    """Whether the template's code has the variable; a word of its text or a field is none."""
    return bool(re.search(rf"\{{[%{{][^}}]*(?<![.\w'\"]){variable}(?![\w'\"])", template))


def _refused(message: str, param: str) -> ApiError:
    return ApiError(ErrorKind.INVALID_REQUEST, message, param=param, code="unsupported_parameter")
