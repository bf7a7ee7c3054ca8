"""One sentence for a union of types that a value does not fit, instead of a sentence per member."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError


def said_plainly(sentence: str) -> WrapValidator:
    """Let a union that fits no member fail with one sentence, not with every member's complaint."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("wrong_type", "{sentence}", {"sentence": sentence}) from None

    return WrapValidator(validate)
