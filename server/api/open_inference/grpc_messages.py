"""Between the messages of GRPCInferenceService and the protocol's own types; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.api.open_inference.inference import Inference
from server.api.open_inference.models import Duration, Statistics
from server.api.open_inference.options import check_tensor
from server.api.open_inference.signature import (
    INPUTS,
    OUTPUTS,
    PLATFORM,
    TensorSpec,
    config_type,
)
from server.api.open_inference.tensors import Tensor, checked, from_raw, raw
from server.api.requests.validation import invalid
from server.pb.inference import open_inference_pb2 as pb

# Says which response of a stream is a request's last.
FINAL_RESPONSE = "triton_final_response"
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def inference(message: pb.ModelInferRequest) -> Inference:
    """What the message asks for. ApiError for inputs that are in no allowed form."""
    for given in (
        *(t.parameters for t in message.inputs),
        *(t.parameters for t in message.outputs),
    ):
        check_tensor(parameters(given))
    return Inference(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        parameters=parameters(message.parameters),
        inputs=_inputs(message),
        outputs=tuple(output.name for output in message.outputs),
    )


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of parameters; one without a value is left out."""
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], kind) for name, kind in kinds.items() if kind}


def response(
    model: tuple[str, str], request_id: str, tensors: Iterable[Tensor], *, is_final: bool
) -> pb.ModelInferResponse:
    """An answer, or a part of one, with raw contents."""
    outputs = list(tensors)
    name, version = model
    message = pb.ModelInferResponse(
        model_name=name,
        model_version=version,
        id=request_id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            for tensor in outputs
        ],
        raw_output_contents=map(raw, outputs),
    )
    message.parameters[FINAL_RESPONSE].bool_param = is_final
    return message


def model_metadata(name: str, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=PLATFORM,
        inputs=map(_metadata, INPUTS),
        outputs=map(_metadata, OUTPUTS),
    )


def model_config(name: str) -> pb.ModelConfigResponse:
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=name,
            platform=PLATFORM,
            backend=PLATFORM,
            input=[
                pb.ModelInput(
                    name=spec.name,
                    data_type=config_type(spec),
                    dims=spec.shape,
                    optional=spec.is_optional,
                )
                for spec in INPUTS
            ],
            output=[
                pb.ModelOutput(name=spec.name, data_type=config_type(spec), dims=spec.shape)
                for spec in OUTPUTS
            ],
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
        )
    )


def statistics(found: Statistics) -> pb.ModelStatisticsResponse:
    stats = pb.InferStatistics(
        success=_duration(found.success),
        fail=_duration(found.fail),
        queue=_duration(found.queue),
        compute_infer=_duration(found.compute),
        cache_hit=_duration(found.cache_hit),
        cache_miss=_duration(found.cache_miss),
    )
    return pb.ModelStatisticsResponse(
        model_stats=[
            pb.ModelStatistics(
                name=found.name,
                version=found.version,
                last_inference=found.last_inference,
                inference_count=found.success.count,
                execution_count=found.num_steps,
                inference_stats=stats,
            )
        ]
    )


def _duration(found: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=found.count, ns=found.nanoseconds)


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


def _inputs(message: pb.ModelInferRequest) -> dict[str, Tensor]:
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise invalid(
            f"raw_input_contents has {len(raws)} entries for {len(message.inputs)} inputs;"
            " send one per input",
            "raw_input_contents",
        )
    found = {}
    for position, entry in enumerate(message.inputs):
        if entry.name in found:
            raise invalid(
                f"input {entry.name[:64]!r} is given twice; send it once", entry.name[:64]
            )
        data = raws[position] if raws else None
        found[entry.name] = _input(entry, data)
    return found


def _input(entry: pb.ModelInferRequest.InferInputTensor, data: bytes | None) -> Tensor:
    name, datatype, shape = entry.name, entry.datatype, list(entry.shape)
    if data is not None:
        if entry.HasField("contents"):
            raise invalid(
                f"{name} has contents, but the request has raw_input_contents; send one of them",
                name,
            )
        return from_raw(name, datatype, shape, data)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise invalid(f"{name}: {datatype[:20]} travels only in raw_input_contents", name)
    set_fields = [descriptor.name for descriptor, _ in entry.contents.ListFields()]
    if other := [each for each in set_fields if each != field]:
        raise invalid(
            f"{name}: {other[0]} is set, but {datatype} has its elements in {field}", name
        )
    return checked(name, datatype, shape, getattr(entry.contents, field))
