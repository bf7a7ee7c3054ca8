"""The JSON bodies of the protocol over HTTP, and the binary tensors behind them.

Turns a body into the protocol's own types and back. Knows neither routes nor the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from server.api.http.json_bodies.json_response import encode
from server.api.open_inference.inference import Inference
from server.api.open_inference.options import check_tensor, merged
from server.api.open_inference.tensors import (
    Tensor,
    checked,
    from_raw,
    raw,
    unnested,
    without_ones,
)
from server.api.requests.validation import invalid

# The length of the JSON before the binary tensors.
LENGTH_HEADER = "inference-header-content-length"
_OF_THE_BODY = ("parameters", "id")


class InputBody(Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | UnsetType = UNSET


class RequestedOutput(Struct, frozen=True, kw_only=True):
    name: str
    parameters: dict[str, Any] = {}


class InferBody(Struct, frozen=True, kw_only=True):
    inputs: list[InputBody]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class OutputBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | UnsetType = UNSET


class InferAnswer(Struct, frozen=True, kw_only=True):
    model_name: str
    model_version: str
    outputs: list[OutputBody]
    id: str | UnsetType = UNSET


class GenerateAnswer(Struct, frozen=True, kw_only=True):
    """A tensor of one element is that element; a longer one is a list."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    text_output: str | list[str] | UnsetType = UNSET
    output_ids: list[int | list[int]] | UnsetType = UNSET
    num_output_tokens: int | list[int] | UnsetType = UNSET
    num_input_tokens: int | list[int] | UnsetType = UNSET
    finish_reason: str | list[str] | UnsetType = UNSET
    index: int | list[int] | UnsetType = UNSET


def read_infer(value: Any, tail: bytes, model: str, version: str) -> tuple[Inference, Binary]:
    """The request of a decoded body and the bytes behind it, and how the answer is to be sent."""
    try:
        body = msgspec.convert(value, InferBody)
    except msgspec.ValidationError as error:
        raise invalid(f"the body is not a request for inference: {error}") from None
    for given in (*(t.parameters for t in body.inputs), *(t.parameters for t in body.outputs)):
        check_tensor(given)
    inputs = _inputs(body, tail)
    inference = Inference(
        model=model,
        version=version,
        id=body.id,
        parameters={key: each for key, each in body.parameters.items() if each is not None},
        inputs=inputs,
        outputs=tuple(output.name for output in body.outputs),
    )
    return inference, Binary(body)


class Binary:
    """Which outputs of an answer are binary: those that say so, or all if the request does."""

    def __init__(self, body: InferBody) -> None:
        self._all = read_flag(body.parameters, "binary_data_output")
        self._own = {
            output.name: read_flag(output.parameters, "binary_data", otherwise=self._all)
            for output in body.outputs
        }

    def __contains__(self, name: str) -> bool:
        return self._own.get(name, self._all)


def read_flag(given: Mapping[str, Any], name: str, *, otherwise: bool = False) -> bool:
    """What is true or false; the text "false" is neither. `otherwise` where it is not given."""
    value = given.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return value


def infer_response(
    model: tuple[str, str], request_id: str, tensors: Iterable[Tensor], binary: Binary
) -> Response:
    """The whole answer: JSON, and behind it the outputs that are wanted as binary."""
    outputs, tail = [], b""
    for tensor in tensors:
        data = raw(tensor) if tensor.name in binary else None
        outputs.append(_output(tensor, data))
        tail += data or b""
    name, version = model
    head = encode(
        InferAnswer(model_name=name, model_version=version, outputs=outputs, id=request_id or UNSET)
    )
    if not tail:
        return Response(head, media_type="application/json")
    headers = {LENGTH_HEADER: str(len(head))}
    return Response(head + tail, headers=headers, media_type="application/octet-stream")


def read_generate(value: Any, model: str, version: str, known: Sequence[str]) -> Inference:
    """The request of `generate`: inputs by their names, and all else as parameters."""
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    nested = {key: each for key, each in read_parameters(value).items() if each is not None}
    flat = {key: each for key, each in value.items() if each is not None}
    # An input that is among the parameters too is refused here, as an option is.
    given = merged(flat, {key: each for key, each in nested.items() if key not in _OF_THE_BODY})
    given = {key: each for key, each in given.items() if key not in (*known, *_OF_THE_BODY)}
    return Inference(
        model=model,
        version=version,
        id=_id(value.get("id")),
        parameters=given,
        inputs={
            name: _from_json(name, each)
            for name, each in value.items()
            if name in known and each is not None
        },
    )


def read_parameters(value: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a decoded body; none where it has none."""
    found = value.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise invalid("parameters must be a JSON object", "parameters")
    return found or {}


def _id(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise invalid("id must be text", "id")
    return value or ""


def generate_answer(
    model: tuple[str, str], request_id: str, tensors: Iterable[Tensor]
) -> GenerateAnswer:
    name, version = model
    fields: dict[str, Any] = {tensor.name: _plain(tensor) for tensor in tensors}
    return GenerateAnswer(model_name=name, model_version=version, id=request_id or UNSET, **fields)


def _inputs(body: InferBody, tail: bytes) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    at = 0
    for entry in body.inputs:
        if entry.name in found:
            raise invalid(f"input {entry.name[:64]!r} is given twice; send it once")
        size = entry.parameters.get("binary_data_size")
        if size is None:
            found[entry.name] = _listed(entry)
            continue
        if type(size) is not int or size < 0 or at + size > len(tail):
            raise invalid(
                f"{entry.name}: binary_data_size is {size!r}, but {len(tail) - at} bytes are left",
                entry.name,
            )
        data = tail[at : at + size]
        found[entry.name] = from_raw(entry.name, entry.datatype, entry.shape, data)
        at += size
    if at != len(tail):
        raise invalid(f"{len(tail) - at} bytes follow the binary data of the inputs")
    return found


def _listed(entry: InputBody) -> Tensor:
    if isinstance(entry.data, UnsetType):
        raise invalid(f"{entry.name} has neither data nor binary_data_size", entry.name)
    nesting, values = unnested(entry.name, entry.data)
    if len(nesting) > 1 and without_ones(nesting) != without_ones(entry.shape):
        raise invalid(
            f"{entry.name} has lists of shape {nesting}, but its shape is {entry.shape[:8]}",
            entry.name,
        )
    return checked(
        entry.name, entry.datatype, entry.shape, _elements(entry.name, entry.datatype, values)
    )


_TYPES: Mapping[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "BYTES": (str,),
    "FP16": (int, float),
    "FP32": (int, float),
    "FP64": (int, float),
    "BF16": (int, float),
}


def _elements(name: str, datatype: str, values: list[Any]) -> list[Any]:
    allowed = _TYPES.get(datatype, (int,))
    wrong = set(map(type, values)) - set(allowed)
    if wrong:
        raise invalid(
            f"{name}: data holds {', '.join(sorted(each.__name__ for each in wrong))}, which is no"
            f" element of {datatype[:20]}",
            name,
        )
    return (
        [value.encode(errors="surrogatepass") for value in values]
        if datatype == "BYTES"
        else values
    )


def _from_json(name: str, value: Any) -> Tensor:
    """The tensor that a plain value of `generate` means."""
    shape, values = unnested(name, value if isinstance(value, list) else [value])
    if all(isinstance(each, dict) for each in values):
        texts = [msgspec.json.encode(each) for each in values]
        return checked(name, "BYTES", shape, texts)
    datatype = _DATATYPES.get(type(values[0]) if values else str)
    if datatype is None:
        raise invalid(f"{name} has an element that no tensor has", name)
    return checked(name, datatype, shape, _elements(name, datatype, values))


_DATATYPES: Mapping[type, str] = {str: "BYTES", bool: "BOOL", int: "INT32", float: "FP32"}


def _output(tensor: Tensor, data: bytes | None) -> OutputBody:
    shape = list(tensor.shape)
    if data is not None:
        return OutputBody(
            name=tensor.name,
            datatype=tensor.datatype,
            shape=shape,
            parameters={"binary_data_size": len(data)},
        )
    return OutputBody(
        name=tensor.name, datatype=tensor.datatype, shape=shape, data=_decoded(tensor)
    )


def _plain(tensor: Tensor) -> Any:
    values = _decoded(tensor)
    if len(tensor.shape) == 2:
        num_rows, length = tensor.shape
        rows = [values[i * length : (i + 1) * length] for i in range(num_rows)]
        return rows[0] if num_rows == 1 else rows
    return values[0] if len(values) == 1 else values


def _decoded(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [value.decode() for value in tensor.values]
    return list(tensor.values)
