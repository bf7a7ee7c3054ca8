"""The setting `compiler_options`: options of XLA's compiler for TPUs, by kind of step.

Only options on the list below are accepted, each within its bounds. Others may change what a
program computes: some that fuse collectives do, without any error. Knows neither programs nor
chips.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from server.config.setting import ConfigError

# Steps of one token per row, steps with prompts, and all other programs.
KINDS = ("decode", "prefill", "other")

# Each option that the compiler may be given, and its inclusive bounds.
ALLOWED_OPTIONS = {
    # KiB of VMEM that one operation may take; the compiler keeps the rest for prefetched arrays.
    "xla_tpu_scoped_vmem_limit_kib": (8192, 131072),
    # Whether arrays of 16-bit numbers may have tiles of 16 rows; 0 keeps the tiles they come in.
    "xla_tpu_control_large_2nd_minor_layout_for_x16": (0, 1),
}

_MAX_DIGITS = 10

# Option names and values, in the order in which they were given.
type Options = Mapping[str, int]
type OptionsByKind = Mapping[str, Options]


def read_compiler_options(setting: str) -> dict[str, dict[str, int]]:
    """`prefill:OPTION=VALUE,decode:` by kind of step; a kind alone means none of the options.

    Raises ConfigError with the part that is wrong.
    """
    found: dict[str, dict[str, int]] = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        kind, colon, pair = (piece.strip() for piece in part.partition(":"))
        if not colon:
            raise ConfigError(
                f"compiler_options holds {part!r}; write KIND:OPTION=VALUE, or KIND: for no option"
            )
        of_kind = found.setdefault(kind, {})
        if pair:
            option, _, value = (piece.strip() for piece in pair.partition("="))
            of_kind[option] = _number(value)
    check_options(found, "compiler_options")
    return found


def _number(text: str) -> int:
    """The number; -1, which no option may have, for what is no number or a very long one."""
    is_short = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return int(text) if is_short else -1


def check_options(by_kind: OptionsByKind, source: str) -> None:
    """Raises ConfigError where a kind, an option or a value is not one of those allowed."""
    for kind, options in by_kind.items():
        if kind not in KINDS:
            raise ConfigError(
                f"{source} holds the kind {kind!r}; a kind is one of {', '.join(KINDS)}"
            )
        for option, value in options.items():
            _check_option(option, value, source)


def _check_option(option: str, value: object, source: str) -> None:
    if option not in ALLOWED_OPTIONS:
        near = difflib.get_close_matches(option, ALLOWED_OPTIONS, n=1)
        known = f"did you mean {near[0]}?" if near else "known: " + ", ".join(ALLOWED_OPTIONS)
        raise ConfigError(f"{source} holds {option!r}, which is not an accepted option; {known}")
    low, high = ALLOWED_OPTIONS[option]
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            f"{source}: {option} must be an integer from {low} to {high}, such as {option}={high}"
        )


def spell_compiler_options(by_kind: OptionsByKind) -> str:
    """The setting that `read_compiler_options` reads as these options."""
    parts = []
    for kind, options in by_kind.items():
        parts += [f"{kind}:{option}={value}" for option, value in options.items()] or [f"{kind}:"]
    return ",".join(parts)
