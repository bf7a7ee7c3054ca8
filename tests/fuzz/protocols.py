"""Doors of the gRPC protocols that others define: every method, with messages of random fields.

Knows of a service only what its descriptor says, so a new method needs no line here.
"""

from __future__ import annotations

import random
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from server.pb.antipode.v1 import versions_pb2
from server.pb.inference import open_inference_pb2
from server.pb.vllm.grpc import vllm_engine_pb2
from tests.fuzz.mutation import torn
from tests.fuzz.targets import FAULTS, SECONDS, Target

MODULES = (open_inference_pb2, vllm_engine_pb2)
TEXTS = (
    "",
    "toy",
    "abc",
    "text_input",
    "input_ids",
    "BYTES",
    "INT32",
    "text_output",
    "é" * 300,
    "{",
)
NUMBERS = (0, 1, 2, 3, 5, 64, -1, 2**31 - 1, 2**63 - 1, -(2**63))
# A short one is a deadline that the server keeps; a long answer takes the target's time.
_LEFT_OUT = frozenset({"timeout", "max_tokens", "max_new_tokens"})
_MAX_DEPTH = 4


def calls(channel: grpc.aio.Channel, modules: tuple[Any, ...] = MODULES, token: str = "") -> Target:
    """No call, whatever it says, ends with a fault or not at all."""
    methods = [
        method
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def send(rng: random.Random) -> None:
        method = rng.choice(methods)
        path = f"/{method.containing_service.full_name}/{method.name}"
        requests = [_content(rng, method.input_type) for _ in range(rng.choice((1,) * 9 + (0, 2)))]
        call = channel.stream_stream(path)(iter(requests), timeout=SECONDS, metadata=metadata)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            if error.code() in FAULTS:
                words = f"{error.code()}, {error.details()!r} for {path}, {requests!r:.500}"
                raise AssertionError(words) from error

    return send


def _content(rng: random.Random, descriptor: Any) -> bytes:
    message = GetMessageClass(descriptor)()
    _fill(rng, message, 0)
    _aim(rng, message)
    content = message.SerializeToString()
    return torn(rng, content) if rng.random() < 0.2 else content


def _aim(rng: random.Random, message: Message) -> None:
    """Most of the time, ask for little of what is here: else nearly all would be refused."""
    target: Any = message
    if isinstance(message, open_inference_pb2.ModelInferRequest):
        if rng.random() < 0.7:
            target.model_name, target.model_version = "toy", ""
            target.ClearField("raw_input_contents")
            tensor = target.inputs.add(name="text_input", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(b"hi")
        target.parameters["max_tokens"].int64_param = rng.choice((0, 1, 2))
    elif isinstance(message, vllm_engine_pb2.GenerateRequest):
        if rng.random() < 0.7:
            target.tokenized.input_ids[:] = [5, 6]
        target.sampling_params.max_tokens = rng.choice((0, 1, 2)) or 1


def _fill(rng: random.Random, message: Message, depth: int) -> None:
    fields = [each for each in message.DESCRIPTOR.fields if each.name not in _LEFT_OUT]
    for field in rng.sample(fields, min(len(fields), rng.randint(0, 4))):
        current = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < _MAX_DEPTH:
                _fill_message(rng, field, current, depth + 1)
        elif field.is_repeated:
            current.extend(_value(rng, field) for _ in range(rng.randint(0, 3)))
        else:
            setattr(message, field.name, _value(rng, field))


def _fill_message(rng: random.Random, field: Any, current: Any, depth: int) -> None:
    if not field.is_repeated:
        current.SetInParent()
        _fill(rng, current, depth)
        return
    options = field.message_type.GetOptions()
    for _ in range(rng.randint(0, 3)):
        if not options.map_entry:
            _fill(rng, current.add(), depth)
            continue
        key, value = field.message_type.fields_by_number[1], field.message_type.fields_by_number[2]
        if value.type == FieldDescriptor.TYPE_MESSAGE:
            _fill(rng, current[_value(rng, key)], depth)
        else:
            current[_value(rng, key)] = _value(rng, value)


def _value(rng: random.Random, field: Any) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = rng.choice(TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice((0.0, 0.5, 1.0, -1.0, float("nan"), float("inf"), 1e30))
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice([each.number for each in field.enum_type.values])
    bits = 32 if field.cpp_type in (_INT32, _UINT32) else 64
    low = 0 if field.cpp_type in (_UINT32, _UINT64) else -(1 << (bits - 1))
    high = (1 << bits if low == 0 else 1 << (bits - 1)) - 1
    return min(max(rng.choice(NUMBERS), low), high)


_INT32, _UINT32 = FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32
_UINT64 = FieldDescriptor.CPPTYPE_UINT64


def admin_calls(channel: grpc.aio.Channel, token: str) -> Target:
    """The version service of the admin port, with the right token."""
    return calls(channel, (versions_pb2,), token)
