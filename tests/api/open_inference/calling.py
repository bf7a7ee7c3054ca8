"""Calls of the protocol's gRPC service, with the server's own messages."""

import grpc

from server.pb.inference import open_inference_pb2 as pb
from server.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.api.grpc.serving import Serving


def stub(s: Serving) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(s.channel)


def tensor(name: str, datatype: str, shape: list[int], **contents):
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )


def text(*texts: str):
    data = [each.encode() for each in texts]
    return tensor("text_input", "BYTES", [len(texts)], bytes_contents=data)


def request(*inputs, raws=(), outputs=(), **fields) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(
        model_name="small",
        inputs=inputs,
        raw_input_contents=raws,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )
    for name, value in fields.items():
        if name in ("model_name", "model_version", "id"):
            setattr(message, name, value)
        else:
            kind = {str: "string", bool: "bool", int: "int64", float: "double"}[type(value)]
            setattr(message.parameters[name], f"{kind}_param", value)
    return message


async def each_of(*messages):
    for message in messages:
        yield message


async def error_of(call) -> grpc.aio.AioRpcError:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")
