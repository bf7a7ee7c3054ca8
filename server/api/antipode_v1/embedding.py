"""Between the messages of Embed and the embedder's own types; pure functions, field by field."""

from __future__ import annotations

from server.api.requests.embedding import EmbeddingRequest, Embeddings, Vector
from server.api.requests.validation import invalid
from server.pb.antipode.v1 import generation_pb2 as pb


def request(
    message: pb.EmbedRequest, *, timeout_seconds: float | None, source: str
) -> EmbeddingRequest:
    """What the message asks for; ApiError for an entry that holds nothing."""
    return EmbeddingRequest(
        inputs=tuple(map(_input, message.inputs)),
        model=message.model,
        dimensions=message.dimensions if message.HasField("dimensions") else None,
        prompt_name=message.prompt_name,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        add_special_tokens=not message.HasField("add_special_tokens") or message.add_special_tokens,
        timeout_seconds=timeout_seconds,
        source=source,
        param="inputs",
    )


def vector(numbers: Vector) -> pb.Embedding:
    return pb.Embedding(values=numbers.tolist())


def response(found: Embeddings[pb.Embedding], request_id: str) -> pb.EmbedResponse:
    return pb.EmbedResponse(
        embeddings=found.vectors,
        request_id=request_id,
        model=found.model,
        model_version=found.version,
        num_prompt_tokens=found.num_prompt_tokens,
        num_cached_tokens=found.num_cached_tokens,
    )


def _input(entry: pb.EmbedInput) -> str | tuple[int, ...]:
    match entry.WhichOneof("input"):
        case "text":
            return entry.text
        case "token_ids":
            return tuple(entry.token_ids.ids)
    raise invalid("an input has neither text nor token_ids", "inputs")
