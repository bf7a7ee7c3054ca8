"""The bodies of POST /v1/embeddings: a request in, vectors out, every field checked.

Whatever an answer lacks, or has of another type, is a ServerError. Knows no HTTP.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from antipode.errors import InvalidRequestError, ServerError
from antipode.limits import quoted
from antipode.types import EmbeddingRequest, Embeddings


def embedding_body(request: EmbeddingRequest) -> bytes:
    """The request's body; asks for base64, which is a third of the numbers' length."""
    fields = {
        "input": [each if isinstance(each, str) else list(each) for each in request.inputs],
        "model": request.model or None,
        "encoding_format": "base64",
        "dimensions": request.dimensions,
        "prompt_name": request.prompt_name or None,
        "truncate_prompt_tokens": request.max_tokens,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return json.dumps(given, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be sent: {error}") from error


def read_embeddings(content: bytes) -> Embeddings:
    """The answer's vectors, in the order of the inputs."""
    try:
        answer = json.loads(content)
        entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
        return Embeddings(
            vectors=[_vector(entry) for entry in entries],
            model=str(answer["model"]),
            model_version=str(answer.get("model_version", "")),
            num_prompt_tokens=int(answer["usage"]["prompt_tokens"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ServerError(f"the server's answer is malformed: {quoted(repr(error))}") from error


def _vector(entry: Mapping[str, Any]) -> list[float]:
    numbers = array("f", base64.b64decode(entry["embedding"], validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
