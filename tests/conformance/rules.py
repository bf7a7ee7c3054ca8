"""What a rule is, and the results of checking it. Knows no server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

type Outcome = Literal["pass", "FAIL", "skip"]


class BrokenRuleError(AssertionError):
    """The server breaks the rule; the message says what was found."""


class NotApplicableError(Exception):
    """The rule cannot be checked here; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server under test. `grpc` is HOST:PORT, or empty if it has no gRPC port.

    `model` is found by asking the server. `pid` is its process for the rules of a drain, 0 for
    none.
    """

    http: str
    grpc: str
    model: str
    pid: int = 0


# Returns what was found, in a few words.
type Check = Callable[[Target], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `source` is who holds servers to it. `is_timed` marks a figure of this machine."""

    group: str
    sentence: str
    source: str
    check: Check
    is_timed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    rule: Rule
    outcome: Outcome
    detail: str


RULES: list[Rule] = []


def rule(
    group: str, sentence: str, source: str, *, is_timed: bool = False
) -> Callable[[Check], Check]:
    """Register a check."""

    def register(check: Check) -> Check:
        RULES.append(Rule(group, sentence, source, check, is_timed))
        return check

    return register


def require(is_kept: bool, found: str) -> None:
    """Break the rule unless it is kept; `found` is what the server did instead."""
    if not is_kept:
        raise BrokenRuleError(found)


async def check(one: Rule, target: Target) -> Result:
    """Check a rule. A failure of any other kind breaks the rule too."""
    try:
        return Result(one, "pass", await one.check(target))
    except NotApplicableError as reason:
        return Result(one, "skip", str(reason))
    except Exception as error:
        return Result(one, "FAIL", f"{type(error).__name__}: {error}"[:300])
