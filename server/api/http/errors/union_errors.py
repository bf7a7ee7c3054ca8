"""Errors of unions in one sentence, instead of a sentence for each member of the union."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError


def said_plainly(sentence: str) -> WrapValidator:
    """Let a union that fits no member fail with one sentence, not with every member's complaint."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("wrong_type", "{sentence}", {"sentence": sentence}) from None

    return WrapValidator(validate)


def or_text(listed: Any, as_entry: Callable[[str], dict[str, Any]], sentence: str) -> Any:
    """Let a list be a string too, which `as_entry` makes its one entry.

    So an error names the entry and the field that are wrong. `listed` is the type of the list.
    """

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return [as_entry(value)]
        if isinstance(value, list) or value is None:
            return value
        raise PydanticCustomError("wrong_type", "{sentence}", {"sentence": sentence})

    return BeforeValidator(read, json_schema_input_type=str | listed)
