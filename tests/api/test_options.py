"""Every option of the table arrives: from either transport it reaches the arrays of a step.

An option that is added to the table, the proto and the service's Sampling passes without a change
here; one that a translator or the packing forgets fails.
"""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from antipode.types import Options

from server.engine.policy.sequences.step import ScheduledRow
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.packing import pack
from server.engine.programs.inputs.step_input import empty_input
from server.link.sampling import OPTIONS, Option, SamplingParams
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import Serving, collect, failure, serving
from tests.api.http_client import app_of
from tests.engine.builders import make_sequence

EOS = FakeEngine.EOS[0]
ROWS = [option for option in OPTIONS if option.rule.row is not None]
BUCKET = Bucket(2, 2, decode_only=True)


def by_name(options):
    return pytest.mark.parametrize("option", options, ids=lambda option: option.name)


def unusual(option: Option) -> float:
    """A value that is allowed and is neither the default nor what padding holds."""
    padding = option.rule.row.padding if option.rule.row else None
    return next(
        value
        for value in map(option.type, (2, 0.5, 1))
        if option.rule.allowed.holds(value) and value not in (option.default, padding)
    )


def beyond(option: Option) -> float:
    return option.type(option.rule.allowed.maximum + 1)


def http_client(s: Serving) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_of(s.service, s.health))
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def params_over_http(option: Option, value: float) -> SamplingParams:
    async with serving(FakeEngine([[EOS]])) as s, http_client(s) as client:
        body = {"prompt": "x", "max_tokens": 9, option.asked_as: value}
        response = await client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return s.engine.submitted[0].params


async def params_over_grpc(option: Option, value: float) -> SamplingParams:
    async with serving(FakeEngine([[EOS]])) as s:
        sampling = pb.Sampling(**{"max_tokens": 9, option.asked_as: value})
        await collect(s.stub.Generate(pb.GenerateRequest(text="x", sampling=sampling)))
        return s.engine.submitted[0].params


over_each_transport = pytest.mark.parametrize("params_over", [params_over_http, params_over_grpc])


@over_each_transport
@by_name(OPTIONS)
async def test_an_option_reaches_the_engine_from_either_transport(option, params_over):
    value = unusual(option)
    assert getattr(await params_over(option, value), option.name) == value


@over_each_transport
@by_name(ROWS)
async def test_an_option_with_a_row_reaches_the_step_from_either_transport(option, params_over):
    value = unusual(option)
    seq = make_sequence([5], params=await params_over(option, value))
    step = pack([ScheduledRow(seq, 0, 1, True, False)], BUCKET, 1, 1, scratch_slot=1)
    array = getattr(step.sampling, option.name)
    assert array.tolist() == [np.dtype(option.rule.row.dtype).type(value), option.rule.row.padding]


@by_name(ROWS)
def test_a_padding_row_holds_what_the_table_says(option):
    array = getattr(empty_input(BUCKET, 1, 1, scratch_slot=1).sampling, option.name)
    assert (array.dtype, array.tolist()) == (option.rule.row.dtype, [option.rule.row.padding] * 2)


@by_name(OPTIONS)
async def test_a_value_beyond_the_range_is_refused_by_name_over_http(option):
    async with serving(FakeEngine([[EOS]])) as s, http_client(s) as client:
        body = {"prompt": "x", option.asked_as: beyond(option)}
        error = (await client.post("/v1/completions", json=body)).json()["error"]
    assert error["param"] == option.asked_as
    assert error["message"] == f"{option.asked_as} must be {option.rule.allowed}"


# Most integers of the proto hold nothing beyond their range.
@by_name([option for option in OPTIONS if option.type is float])
async def test_a_value_beyond_the_range_is_refused_by_name_over_grpc(option):
    async with serving(FakeEngine([[EOS]])) as s:
        sampling = pb.Sampling(**{option.asked_as: beyond(option)})
        error = await failure(s.stub.Generate(pb.GenerateRequest(text="x", sampling=sampling)))
    assert error.details() == f"{option.asked_as} must be {option.rule.allowed}"


def test_the_client_offers_every_option_but_the_prompts_log_probabilities():
    offered = Options.__annotations__.keys() | {"prompt_logprobs"}
    assert {option.asked_as for option in OPTIONS} <= offered
