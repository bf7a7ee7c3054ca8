"""The bodies of the endpoints that answer with vectors, or with numbers made of them.

Types are checked here; bounds are the embedder's to check. Unknown fields pass, as client libraries
add new ones; fields that would change the answer, and are not honoured, are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, FailFast, Field

from server.api.foreign_fields.checking import check_foreign_at
from server.api.foreign_fields.table import OF_INPUTS
from server.api.http.errors.union_errors import said_plainly
from server.api.openai.bodies.field_types import Prompt
from server.api.requests.numbers import Int
from server.api.requests.refused_fields import refused

# Fields of other servers that would change the answer, and the values with which they would not.
_LEAVE_OUT = "leave it out"
_UNSUPPORTED = {
    **refused("input_type max_chunks_per_doc max_tokens_per_doc task", _LEAVE_OUT),
    **refused("chat_template messages prompt", _LEAVE_OUT),
    **refused("embed_dtype", _LEAVE_OUT, "float32"),
    **refused("embedding_type output_dtype", _LEAVE_OUT, "float"),
    **refused("embedding_types", _LEAVE_OUT, ["float"]),
    **refused("endianness", _LEAVE_OUT, "native", "little"),
    **refused("instruction", _LEAVE_OUT, ""),
    **refused("late_chunking softmax", _LEAVE_OUT, False),
    **refused("normalize normalized use_activation", _LEAVE_OUT, True),
    **refused("rank_fields", _LEAVE_OUT, [], ["text"]),
    **refused("truncate truncation", "use truncate_prompt_tokens", False),
}


class _Body(BaseModel):
    """What all have in common. Null is the same as left out."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)

    model: str = Field("", description="The served model's name; empty is whichever is served.")
    truncate_prompt_tokens: Int | None = Field(
        None, description="Cut longer inputs to so many tokens, -1: to the most that fit."
    )
    request_id: str | None = None

    def check_supported(self) -> None:
        """Refuse what would be ignored to the client's surprise."""
        own = type(self).model_fields
        check_foreign_at("this endpoint", self.model_extra or {}, own, _UNSUPPORTED, OF_INPUTS)


class EmbeddingBody(_Body):
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Unset is float; base64 is of little-endian float32."
    )
    dimensions: Int | None = Field(
        None,
        json_schema_extra={"minimum": 1},
        description="Keep the first numbers of each vector, and normalize what is kept.",
    )
    prompt_name: str | None = Field(
        None, description="The checkpoint's text to put before each text, such as query."
    )
    add_special_tokens: bool | None = Field(None, description="Unset is true.")
    user: str | None = None

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """One entry per input, in whichever of the four forms it came."""
        given: Any = self.input
        if isinstance(given, str):
            return (given,)
        if given and isinstance(given[0], int):
            return (tuple(given),)
        return tuple(each if isinstance(each, str) else tuple(each) for each in given)


class _TextDocument(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    text: str


type _Document = str | _TextDocument
_Documents = Annotated[
    list[_Document],
    FailFast(),
    said_plainly("must be a list of strings, or of objects with a text"),
]
_Texts = Annotated[
    str | list[str], said_plainly("must be a string or a list of strings; nothing else is read")
]


class RerankBody(_Body):
    query: str
    documents: _Documents = Field(json_schema_extra={"minItems": 1})
    top_n: Int | None = Field(None, description="Results to return; unset or 0 returns all.")
    return_documents: bool | None = Field(None, description="Unset is true.")

    @property
    def texts(self) -> list[str]:
        return [each if isinstance(each, str) else each.text for each in self.documents]


class ScoreBody(_Body):
    """One text against one or many, or two lists of one length, pair by pair."""

    text_1: _Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    text_2: _Texts = Field(validation_alias=AliasChoices("text_2", "documents", "items", "data_2"))


class EmbeddingUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(msgspec.Struct, frozen=True, kw_only=True):
    """A vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    model_version: str
    data: list[EmbeddingObject]
    usage: EmbeddingUsage


class RankedDocument(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class RankedResult(msgspec.Struct, frozen=True, kw_only=True):
    """`relevance_score` is the cosine of query and document."""

    index: int
    relevance_score: float
    document: RankedDocument | msgspec.UnsetType = msgspec.UNSET


class RerankAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    model_version: str
    results: list[RankedResult]
    usage: EmbeddingUsage


class ScoreObject(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreList(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    model_version: str
    data: list[ScoreObject]
    usage: EmbeddingUsage
