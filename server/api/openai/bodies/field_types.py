"""The types of the fields of bodies: what is checked, strictly, and what a document shows of it.

Bounds are only shown: the service checks them, and says in better words what was wrong. Knows no
field by name but `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from server.api.foreign_fields.checking import check_foreign
from server.api.foreign_fields.meanings import Meaning
from server.api.foreign_fields.table import FIELDS
from server.api.http.errors.union_errors import said_plainly
from server.api.http.json_bodies.json_decoding import Integers
from server.api.requests.validation import (
    MAX_BAD_WORD_CHARS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    RANGES,
)


def _checked_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Long lists were checked where they were decoded, in a thread."""
    return value if type(value) is Integers else check(value)


def _no_null(value: Any) -> Any:
    return "" if value is None else value


type Name = Annotated[
    str,
    BeforeValidator(_no_null),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
]

# Bounds in `json_schema_extra` are shown, not checked: the service says them in better words.
type Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
type TokenId = Annotated[int, Field(json_schema_extra={"minimum": 0})]
type Texts = Annotated[list[Text], FailFast(), Field(json_schema_extra={"minItems": 1})]
type TokenIds = Annotated[list[TokenId], FailFast(), WrapValidator(_checked_once)]
type Tokens = Annotated[TokenIds, Field(json_schema_extra={"minItems": 1})]
type TokenLists = Annotated[list[Tokens], FailFast(), Field(json_schema_extra={"minItems": 1})]
type StopString = Annotated[str, Field(json_schema_extra={"maxLength": MAX_STOP_CHARS})]
type StopStrings = Annotated[
    list[StopString], FailFast(), Field(json_schema_extra={"maxItems": MAX_STOP_STRINGS})
]
type BadWord = Annotated[
    str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_BAD_WORD_CHARS})
]

Prompt = Annotated[
    Text | Texts | Tokens | TokenLists,
    said_plainly("must be a string, a list of strings, of token ids, or of lists of token ids"),
]

Stop = Annotated[
    StopString | StopStrings | None, said_plainly("must be a string or a list of strings")
]


def bounds(name: str) -> dict[str, Any]:
    """The service's range of a field, as the OpenAPI document shows it."""
    return RANGES[name].schema()


# The max_tokens of llama.cpp, Ollama and LM Studio for as many as the context still holds.
REST_OF_CONTEXT = -1

MAX_TOKENS_BOUNDS = bounds("max_tokens") | {"minimum": REST_OF_CONTEXT}


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    foreign_fields: ClassVar[Mapping[str, Meaning]] = FIELDS

    def check_supported(self, of_others: Collection[str] = ()) -> None:
        """Refuse what would be ignored to the client's surprise.

        `of_others` are the fields that only other endpoints have.
        """
        if extra := self.model_extra:
            check_foreign(extra, vars(self), of_others, self.foreign_fields)
