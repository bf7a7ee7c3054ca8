"""The error of a machine that cannot do what the lab needs.

Nothing is wrong with the lab then, so a caller that runs it only where it can go on without it.
"""

from __future__ import annotations


class UnavailableError(RuntimeError):
    """Says in one sentence what the machine lacks."""
