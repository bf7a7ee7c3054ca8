"""The JSON bodies that tell of server, model and versions, as Triton spells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from msgspec import Struct

from server.api.open_inference.models import Duration, Statistics
from server.api.open_inference.repository import IndexEntry
from server.api.open_inference.signature import (
    EXTENSIONS,
    INPUTS,
    OUTPUTS,
    PLATFORM,
    SERVER_NAME,
    TensorSpec,
    config_type,
    release,
)
from server.api.requests.generation import ModelInfo


class ServerMetadataBody(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    extensions: list[str]

    @classmethod
    def current(cls) -> Self:
        return cls(name=SERVER_NAME, version=release(), extensions=list(EXTENSIONS))


class TensorBody(Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: list[int]

    @classmethod
    def of(cls, spec: TensorSpec) -> Self:
        return cls(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


class ModelMetadataBody(Struct, frozen=True, kw_only=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorBody]
    outputs: list[TensorBody]

    @classmethod
    def of(cls, name: str, versions: Sequence[str]) -> Self:
        return cls(
            name=name,
            versions=list(versions),
            platform=PLATFORM,
            inputs=list(map(TensorBody.of, INPUTS)),
            outputs=list(map(TensorBody.of, OUTPUTS)),
        )


class ConfigTensor(Struct, frozen=True, kw_only=True):
    name: str
    data_type: str
    dims: list[int]
    optional: bool = False

    @classmethod
    def of(cls, spec: TensorSpec) -> Self:
        return cls(
            name=spec.name,
            data_type=config_type(spec),
            dims=list(spec.shape),
            optional=spec.is_optional,
        )


class TransactionPolicy(Struct, frozen=True):
    decoupled: bool


class ModelConfigBody(Struct, frozen=True, kw_only=True):
    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    model_transaction_policy: TransactionPolicy

    @classmethod
    def of(cls, model: ModelInfo) -> Self:
        return cls(
            name=model.name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=0,
            input=list(map(ConfigTensor.of, INPUTS)),
            output=list(map(ConfigTensor.of, OUTPUTS)),
            model_transaction_policy=TransactionPolicy(decoupled=True),
        )


class DurationBody(Struct, frozen=True):
    count: int
    ns: int

    @classmethod
    def of(cls, found: Duration) -> Self:
        return cls(found.count, found.nanoseconds)


class InferenceStats(Struct, frozen=True, kw_only=True):
    success: DurationBody
    fail: DurationBody
    queue: DurationBody
    compute_input: DurationBody
    compute_infer: DurationBody
    compute_output: DurationBody
    cache_hit: DurationBody
    cache_miss: DurationBody


class ModelStats(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStats


class StatisticsBody(Struct, frozen=True, kw_only=True):
    model_stats: list[ModelStats]

    @classmethod
    def of(cls, found: Statistics) -> Self:
        nothing = DurationBody(0, 0)
        stats = InferenceStats(
            success=DurationBody.of(found.success),
            fail=DurationBody.of(found.fail),
            queue=DurationBody.of(found.queue),
            compute_input=nothing,
            compute_infer=DurationBody.of(found.compute),
            compute_output=nothing,
            cache_hit=DurationBody.of(found.cache_hit),
            cache_miss=DurationBody.of(found.cache_miss),
        )
        model = ModelStats(
            name=found.name,
            version=found.version,
            last_inference=found.last_inference,
            inference_count=found.success.count,
            execution_count=found.num_steps,
            inference_stats=stats,
        )
        return cls(model_stats=[model])


class RepositoryEntry(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    state: str
    reason: str

    @classmethod
    def of(cls, entry: IndexEntry) -> Self:
        return cls(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
