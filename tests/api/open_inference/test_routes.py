"""The protocol over HTTP."""

import json

import httpx
import numpy as np
import pytest

from server.api.open_inference.tensors import Tensor, from_raw, raw
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from server.link.frames import Pulse
from server.link.status import EngineLoad, VersionStatus
from tests.api.fakes import FakeEngine

TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["say hello"]}
PATH = "/v2/models/small/infer"


@pytest.fixture
def engine(ids):
    return FakeEngine([[token_id] for token_id in [*ids("hello world"), 262]])


def events_of(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


async def test_infer_answers_in_json(client, ids):
    answer = (await client.post(PATH, json={"inputs": [TEXT], "id": "mine"})).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("small", "1", "mine")
    assert outputs["text_output"]["data"] == ["hello world"]
    assert outputs["output_ids"]["data"] == [*ids("hello world"), 262]
    assert outputs["output_ids"]["shape"] == [1, len(ids("hello world")) + 1]


async def test_binary_tensors_follow_the_json(client, engine):
    prompt = np.array([[5, 6, 7]], "<i4").tobytes()
    entry = {
        "name": "input_ids", "datatype": "INT32", "shape": [1, 3],
        "parameters": {"binary_data_size": len(prompt)},
    }  # fmt: skip
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    answer = await client.post(
        PATH, content=head + prompt, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.content[:length])["outputs"][0]
    data = answer.content[length:][: output["parameters"]["binary_data_size"]]
    assert engine.submitted[0].prompt_token_ids == [5, 6, 7]
    assert from_raw("x", "BYTES", [1], data).values == [b"hello world"]


async def test_an_output_may_be_binary_next_to_one_that_is_not(client):
    outputs = [
        {"name": "text_output", "parameters": {"binary_data": True}},
        {"name": "index"},
    ]
    answer = await client.post(PATH, json={"inputs": [TEXT], "outputs": outputs})
    length = int(answer.headers["inference-header-content-length"])
    text, index = json.loads(answer.content[:length])["outputs"]
    assert answer.content[length:] == raw(Tensor("x", "BYTES", (1,), [b"hello world"]))
    assert "data" not in text
    assert index["data"] == [0]


async def test_generate_takes_and_gives_plain_values(client, engine):
    body = {"text_input": "say hello", "parameters": {"temperature": 0.5}, "max_tokens": 40}
    answer = (await client.post("/v2/models/small/generate", json=body)).json()
    assert answer["text_output"] == "hello world"
    assert answer["finish_reason"] == "stop"
    assert engine.submitted[0].params.temperature == 0.5
    assert engine.submitted[0].params.max_tokens == 40


async def test_generate_takes_token_ids_and_options_as_an_object(client, engine):
    body = {"input_ids": [5, 6], "sampling_parameters": {"top_k": 3}}
    assert (await client.post("/v2/models/small/versions/1/generate", json=body)).is_success
    assert engine.submitted[0].prompt_token_ids == [5, 6]
    assert engine.submitted[0].params.top_k == 3


async def test_generate_stream_sends_an_event_per_part(client):
    answer = await client.post("/v2/models/small/generate_stream", json={"text_input": "x"})
    events = events_of(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "".join(event["text_output"] for event in events) == "hello world"
    assert events[-1]["finish_reason"] == "stop"


async def test_an_error_of_a_stream_is_an_event(client, engine):
    engine.script = [[5], [6]]
    engine.finish_reason = "error"
    answer = await client.post("/v2/models/small/generate_stream", json={"text_input": "x"})
    assert set(events_of(answer.text)[-1]) == {"error"}


ERRORS = (
    ("GET", "/v2/nothing", None, 404),
    ("GET", "/v2/models/large", None, 404),
    ("DELETE", "/v2", None, 405),
    ("POST", PATH, b"{", 400),
    ("POST", PATH, b"[]", 400),
    ("POST", PATH, b'{"inputs": []}', 400),
    ("POST", PATH, b"x" * 20_001, 413),
    ("POST", "/v2/models/small/generate", b"[]", 400),
    ("POST", "/v2/repository/index", None, 401),
)


async def test_every_error_is_a_text(client):
    for method, path, body, status in ERRORS:
        answer = await client.request(method, path, content=body)
        assert (path, answer.status_code) == (path, status)
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)


WRONG = (
    ({"data": [1]}, "data holds int, which is no element of BYTES"),
    ({"data": ["a", "b"]}, "has 2 elements, but its shape [1] has 1"),
    ({"shape": [1], "data": [[["a"]]], "datatype": "INT32"}, "holds str"),
    ({"parameters": {"binary_data_size": 4}}, "but 0 bytes are left"),
    ({"name": "other"}, "unexpected input 'other'"),
)


async def test_a_tensor_that_is_none_is_refused(client):
    for change, sentence in WRONG:
        answer = await client.post(PATH, json={"inputs": [TEXT | change]})
        assert answer.status_code == 400
        assert sentence in answer.json()["error"]


RAGGED = (
    ([[5, 6, 7], [8]], "rows of different lengths"),
    ([[5, 6], []], "rows of different lengths"),
    ([[5, 6], 7, 8], "lists next to elements"),
)


@pytest.mark.parametrize(("rows", "sentence"), RAGGED)
async def test_rows_of_different_lengths_are_not_cut_into_other_prompts(
    client, engine, rows, sentence
):
    entry = {"name": "input_ids", "datatype": "INT32", "shape": [2, 2], "data": rows}
    for path, body in (
        (PATH, {"inputs": [entry]}),
        ("/v2/models/small/generate", {"input_ids": rows}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 400
        assert sentence in answer.json()["error"]
    assert engine.submitted == []


async def test_rows_must_be_those_of_the_shape(client, engine):
    entry = {"name": "input_ids", "datatype": "INT32", "data": [[5, 6], [7, 8]]}
    answer = await client.post(PATH, json={"inputs": [entry | {"shape": [4]}]})
    assert "lists of shape [2, 2], but its shape is [4]" in answer.json()["error"]
    flat_or_nested = ([5, 6, 7, 8], [[5, 6], [7, 8]], [[[5, 6], [7, 8]]])
    for data in flat_or_nested:
        body = {"inputs": [entry | {"shape": [2, 2], "data": data}]}
        assert (await client.post(PATH, json=body)).is_success
    prompts = [each.prompt_token_ids for each in engine.submitted]
    assert prompts == [[5, 6], [7, 8]] * len(flat_or_nested)


OF_ANOTHER_TYPE = (
    ("generate", {"timeout": True}, "timeout must be a whole number"),
    ("generate", {"id": {"a": 1}}, "id must be text"),
    ("generate", {"parameters": [1]}, "parameters must be a JSON object"),
    ("infer", {"parameters": {"binary_data_output": "false"}}, "must be true or false"),
    (
        "infer",
        {"outputs": [{"name": "index", "parameters": {"binary_data": "false"}}]},
        "binary_data must be true or false",
    ),
    ("infer", {"inputs": [TEXT | {"parameters": {"binary_data_size": False}}]}, "size is False"),
)


@pytest.mark.parametrize(("end", "fields", "sentence"), OF_ANOTHER_TYPE)
async def test_a_value_of_another_type_is_not_read_as_what_it_looks_like(
    client, engine, end, fields, sentence
):
    own = {"inputs": [TEXT]} if end == "infer" else {"text_input": "a"}
    answer = await client.post(f"/v2/models/small/{end}", json=own | fields)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert engine.submitted == []


async def test_a_timeout_longer_than_any_number_of_the_machine_is_no_fault(client):
    body = {"text_input": "a", "timeout": 10**400}
    assert (await client.post("/v2/models/small/generate", json=body)).is_success


async def test_a_wrong_length_of_the_json_is_refused(client):
    for length in ("x", "-1", "99999", "1e3"):
        headers = {"Inference-Header-Content-Length": length}
        answer = await client.post(PATH, content=b"{}", headers=headers)
        assert "must be the length of the JSON" in answer.json()["error"]


async def test_the_probes_answer_by_their_status(client, lifecycle):
    paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/small/ready"]
    assert [(await client.get(path)).status_code for path in paths] == [200, 200, 200]
    lifecycle.begin_drain()
    assert [(await client.get(path)).status_code for path in paths] == [200, 503, 503]


async def test_a_version_that_was_never_here_is_not_found_and_one_that_was_is_not_ready(
    client, engine
):
    engine.pulse = Pulse(
        state="ready",
        versions=(
            VersionStatus(version="1", path="/m/small/1", state="AVAILABLE", is_serving=True),
            VersionStatus(version="2", path="/m/small/2", state="LOADING"),
            VersionStatus(version="3", path="/m/small/3", state="END"),
        ),
    )
    statuses = {}
    for version in ("1", "2", "3", "9"):
        path = f"/v2/models/small/versions/{version}"
        statuses[version] = [(await client.get(path + end)).status_code for end in ("/ready", "")]
    assert statuses == {"1": [200, 200], "2": [503, 404], "3": [503, 404], "9": [404, 404]}


TWICE = (
    {"max_tokens": 2, "parameters": {"max_tokens": 3}},
    {"max_tokens": 2, "parameters": {"max_new_tokens": 3}},
    {"parameters": {"text_input": "b"}},
    {"sampling_parameters": '{"seed": 1, "seed": 2}'},
    {"sampling_parameters": '{"seed": 1}', "parameters": {"sampling_parameters": "{}"}},
    {"seed": 1, "sampling_parameters": '{"seed": 1}'},
    {"stream": True, "parameters": {"stream": False}},
)


@pytest.mark.parametrize("fields", TWICE)
async def test_generate_refuses_what_is_given_twice(client, engine, fields):
    answer = await client.post("/v2/models/small/generate", json={"text_input": "a", **fields})
    assert answer.status_code == 400
    assert "is given twice; send it once" in answer.json()["error"]
    assert engine.submitted == []


ELSEWHERE = ({"shared_memory_region": "r", "shared_memory_byte_size": 8}, {"classification": 2})


@pytest.mark.parametrize("parameters", ELSEWHERE)
async def test_data_that_would_be_elsewhere_is_refused(client, engine, parameters):
    """Also next to data, which the client believes to be ignored."""
    name = next(iter(parameters))
    for body in (
        {"inputs": [TEXT | {"parameters": parameters}]},
        {"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": parameters}]},
    ):
        answer = await client.post(PATH, json=body)
        assert answer.status_code == 400
        assert f"{name} is not supported by this server" in answer.json()["error"]
    assert engine.submitted == []


async def test_parameters_that_ask_for_nothing_pass(client):
    nothing = {"shared_memory_region": "", "classification": 0, "binary_data": False}
    output = {"name": "text_output", "parameters": nothing}
    answer = await client.post(PATH, json={"inputs": [TEXT], "outputs": [output]})
    assert answer.status_code == 200


async def test_server_and_model_describe_themselves(client, engine):
    engine.pulse = Pulse(state="ready", load=EngineLoad())
    server = (await client.get("/v2")).json()
    model = (await client.get("/v2/models/small/versions/1")).json()
    config = (await client.get("/v2/models/small/config")).json()
    stats = (await client.get("/v2/models/small/stats")).json()
    assert server["name"] == "antipode"
    assert model["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [-1]}
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert stats["model_stats"][0]["name"] == "small"
    assert (await client.get("/v2/models/stats")).json() == stats


class TestLoadHeader:
    """The report of the load on answers."""

    @pytest.fixture
    def loaded(self, engine):
        engine.pulse = Pulse(state="ready", load=EngineLoad(num_running=1, num_slots=4))
        return engine

    async def test_a_client_may_ask_for_another_form(self, client, loaded):
        for asked, begin in ((None, "JSON {"), ("text", "TEXT "), ("BIN", "BIN ")):
            headers = {"endpoint-load-metrics-format": asked} if asked else {}
            answer = await client.post(PATH, json={"inputs": [TEXT]}, headers=headers)
            report = answer.headers["endpoint-load-metrics"]
            assert report.startswith(begin)
            assert answer.headers["x-endpoint-load-metrics"] == report

    async def test_a_whole_answer_has_its_cost_and_a_stream_has_not(self, client, loaded):
        path = "/v1/completions"
        whole = await client.post(path, json={"prompt": "x"})
        stream = await client.post(path, json={"prompt": "x", "stream": True})
        costs = [
            json.loads(answer.headers["endpoint-load-metrics"].removeprefix("JSON ")).get(
                "request_cost"
            )
            for answer in (whole, stream)
        ]
        assert costs[0]["prompt_tokens"] == 1
        assert costs[1] is None

    async def test_errors_have_it_and_probes_have_not(self, client, loaded):
        assert "endpoint-load-metrics" in (await client.post(PATH, content=b"{")).headers
        assert "endpoint-load-metrics" not in (await client.get("/readyz")).headers

    async def test_the_header_may_be_off_but_for_those_who_ask(self, service, health, loaded):
        app = create_http_app(service, health, ServerConfig(load_report_format="none"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            body = {"inputs": [TEXT]}
            plain = await client.post(PATH, json=body)
            asked = await client.post(
                PATH, json=body, headers={"endpoint-load-metrics-format": "json"}
            )
        assert "endpoint-load-metrics" not in plain.headers
        assert "endpoint-load-metrics" in asked.headers
