"""The whole numbers of every protocol's bodies, as JSON writes them.

Knows no field and no bounds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def _whole(value: Any) -> Any:
    """16.0 as 16: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


type Int = Annotated[int, BeforeValidator(_whole)]
