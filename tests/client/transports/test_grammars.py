"""The option `grammar`: each transport asks the same of a server, in its own words."""

from __future__ import annotations

import json

import pytest
from antipode import InvalidRequestError
from antipode.requests.options import read_options
from antipode.transports.grpc_transport import message
from antipode.transports.http_transport import body
from antipode.types import Request, Resume, Start

from server.api.antipode_v1.translate import grammar as read_grpc
from server.api.openai.bodies.grammar_bodies import read_grammar as read_http
from server.link.sampling import Grammar

SCHEMA = {"type": "object"}
START = Start(request_id="", model="", model_version="", seed=3)
ASKED = {
    "schema": ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
    "text of a schema": ({"json_schema": '{"type": "object"}'}, "json_schema", SCHEMA),
    "object": ({"json_object": True}, "json_object", None),
    "regex": ({"regex": "a+"}, "regex", "a+"),
    "choice": ({"choice": ("a", "b")}, "choice", ["a", "b"]),
    "lark": ({"lark": "start: x"}, "lark", "start: x"),
    "tag": ({"structural_tag": {"triggers": []}}, "structural_tag", {"triggers": []}),
}


def meaning(grammar: Grammar):
    is_json = grammar.kind in ("json_schema", "choice", "structural_tag")
    return grammar.kind, json.loads(grammar.text) if is_json else grammar.text or None


@pytest.mark.parametrize(("option", "kind", "value"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("resume", [None, Resume(start=START, received=((1,),))])
def test_both_transports_ask_for_the_same_also_when_resumed(option, kind, value, resume):
    request = Request(prompt="x", options={"grammar": option})
    over_http, _ = read_http(body(request, resume, "m"))
    over_grpc = read_grpc(message(request, resume).sampling.grammar)
    assert meaning(over_http) == meaning(over_grpc) == (kind, value)
    assert request.options == {"grammar": option}


@pytest.mark.parametrize("option", [{}, {"xml": "x"}, {"regex": "a", "lark": "b"}])
def test_no_kind_two_kinds_and_unknown_ones_are_refused_before_sending(option):
    with pytest.raises(InvalidRequestError, match="exactly one of json_schema, json_object"):
        read_options({"grammar": option})
