"""One setting: its spellings, its allowed values, and what is said of a value that is not allowed.

A setting has one spelling in four places. The field `max_num_seqs` is the flag `--max-num-seqs`,
the variable `ANTIPODE_MAX_NUM_SEQS`, the key `max_num_seqs` of the configuration file, and
`maxNumSeqs` in the charts. Knows no setting by name.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

ENVIRONMENT_PREFIX = "ANTIPODE_"


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its source and the allowed values."""


def field(
    default: Any, description: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """A dataclass field with its help text and, for numbers, its inclusive bounds."""
    metadata = {"description": description, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the configuration: its spellings and its allowed values."""

    section: Literal["engine", "server"]
    key: str
    type: Any
    default: Any
    description: str
    low: float | None
    high: float | None

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def choices(self) -> tuple[Any, ...]:
        return typing.get_args(self.type)

    @property
    def allowed(self) -> str:
        """The allowed values, as the end of the sentence "it must be ..."."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
        return kind[self.type] + self._range

    @property
    def _range(self) -> str:
        if self.low is None:
            return ""
        if self.high is None:
            return f" of at least {self.low}"
        return f" from {self.low} to {self.high}"

    def parse(self, raw: object, source: str) -> Any:
        """Turn text, or a value of the file, into the field's type. Raises ConfigError."""
        try:
            value = msgspec.convert(raw, self.type, strict=not isinstance(raw, str))
        except msgspec.ValidationError:
            value = None
        if value is None or not self._is_in_range(value):
            raise ConfigError(f"{source} is {raw!r}; it must be {self.allowed}")
        return value

    def _is_in_range(self, value: Any) -> bool:
        if self.type not in (int, float):
            return True
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return bool(math.isfinite(value) and low <= value <= high)
