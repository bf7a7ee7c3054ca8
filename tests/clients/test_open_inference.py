"""Triton's own clients of the Open Inference Protocol, unchanged, over gRPC and HTTP."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

PROMPT = "Once upon a time"
OPTIONS = {"max_tokens": 12, "temperature": 0, "seed": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def over_grpc(grpc_address: str) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def over_http(server: str) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(server.removeprefix("http://")) as client:
        yield client


@pytest.fixture(params=["grpc", "http"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def library(kind: str):
    return triton_grpc if kind == "grpc" else triton_http


@pytest.fixture
def client(kind: str, request: pytest.FixtureRequest):
    return request.getfixturevalue(f"over_{kind}")


def text_input(library, text: str = PROMPT):
    tensor = library.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], object))
    return tensor


def test_server_and_model_are_found(client, model):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)


def test_metadata_configuration_and_statistics_are_read(over_grpc, over_http, model):
    assert over_http.get_server_metadata()["name"] == over_grpc.get_server_metadata().name
    names = [tensor["name"] for tensor in over_http.get_model_metadata(model)["inputs"]]
    assert names == [tensor.name for tensor in over_grpc.get_model_metadata(model).inputs]
    config = over_grpc.get_model_config(model, as_json=True)["config"]
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert over_http.get_model_config(model)["input"][0]["data_type"] == "TYPE_STRING"
    assert "model_stats" in over_http.get_inference_statistics(model)
    assert over_grpc.get_inference_statistics(model).model_stats[0].name == model


def test_text_becomes_text(client, library, model):
    answer = client.infer(model, [text_input(library)], parameters=OPTIONS, request_id="mine")
    [text] = answer.as_numpy("text_output")
    assert text.decode()
    assert answer.as_numpy("output_ids").shape == (1, 12)
    assert list(answer.as_numpy("finish_reason")) == [b"length"]


def test_both_transports_and_both_forms_of_outputs_agree(over_grpc, over_http, model):
    found = [
        client.infer(model, [text_input(library)], parameters=OPTIONS, outputs=outputs)
        for client, library, outputs in (
            (over_grpc, triton_grpc, None),
            (over_http, triton_http, None),
            (
                over_http,
                triton_http,
                [triton_http.InferRequestedOutput("output_ids", binary_data=False)],
            ),
        )
    ]
    ids = [answer.as_numpy("output_ids").tolist() for answer in found]
    assert ids[0] == ids[1] == ids[2]


def test_token_ids_are_a_prompt(client, library, model):
    tensor = library.InferInput("input_ids", [1, 4], "INT32")
    tensor.set_data_from_numpy(np.array([[5, 6, 7, 8]], np.int32))
    answer = client.infer(model, [tensor], parameters=OPTIONS)
    assert answer.as_numpy("num_input_tokens").tolist() == [4]


def test_compressed_requests_are_read(client, library, model):
    name = "compression_algorithm" if library is triton_grpc else "request_compression_algorithm"
    answer = client.infer(model, [text_input(library)], parameters=OPTIONS, **{name: "gzip"})
    assert answer.as_numpy("text_output").shape == (1,)


def test_errors_are_the_clients_own(client, library, model):
    with pytest.raises(InferenceServerException, match="large"):
        client.infer("large", [text_input(library)])
    with pytest.raises(InferenceServerException, match="temperature"):
        client.infer(model, [text_input(library)], parameters={"temperature": 9.0})
    with pytest.raises(InferenceServerException, match="admin-token-file"):
        client.get_model_repository_index()


def test_a_path_that_does_not_exist_is_an_error_with_a_text(over_http):
    with pytest.raises(InferenceServerException) as error:
        over_http.get_model_metadata("no/such/model")
    assert "does not exist" in str(error.value)


def test_a_stream_has_parts_and_errors_by_id(over_grpc, model):
    found: queue.Queue = queue.Queue()
    over_grpc.start_stream(lambda result, error: found.put((result, error)))
    stream = triton_grpc.InferInput("stream", [1], "BOOL")
    stream.set_data_from_numpy(np.array([True]))
    over_grpc.async_stream_infer(
        model,
        [text_input(triton_grpc), stream],
        parameters=OPTIONS,
        request_id="parts",
        enable_empty_final_response=True,
    )
    texts, is_final = [], False
    while not is_final:
        result, error = found.get(timeout=60)
        assert error is None
        texts.append(result.as_numpy("text_output")[0].decode())
        is_final = result.get_response().parameters["triton_final_response"].bool_param
    over_grpc.async_stream_infer("large", [text_input(triton_grpc)], request_id="wrong")
    _, error = found.get(timeout=60)
    over_grpc.stop_stream()
    whole = over_grpc.infer(model, [text_input(triton_grpc)], parameters=OPTIONS)
    assert "".join(texts) == whole.as_numpy("text_output")[0].decode()
    assert "large" in str(error)


def test_sampling_parameters_are_json_as_the_backend_of_vllm_has_them(client, library, model):
    tensor = library.InferInput("sampling_parameters", [1], "BYTES")
    text = json.dumps({"max_tokens": "3", "temperature": "0", "ignore_eos": "true"})
    tensor.set_data_from_numpy(np.array([text.encode()], object))
    answer = client.infer(model, [text_input(library), tensor])
    assert answer.as_numpy("num_output_tokens").tolist() == [3]
