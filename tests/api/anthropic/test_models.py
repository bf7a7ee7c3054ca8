"""The list of models in Anthropic's shape, for its clients only."""

from __future__ import annotations

import re

import pytest

PATH = "/v1/models"
OURS = {"anthropic-version": "2023-06-01"}


async def get(client, path=PATH, headers=OURS, **params):
    return await client.get(path, headers=headers, params=params)


async def test_a_client_that_sends_its_version_gets_its_own_shape(client):
    page = (await get(client)).json()
    (entry,) = page.pop("data")
    assert (entry["type"], entry["id"], entry["display_name"]) == ("model", "small", "small")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["created_at"])
    assert page == {"has_more": False, "first_id": "small", "last_id": "small"}
    assert (await get(client, f"{PATH}/small")).json() == entry


async def test_another_client_gets_the_shape_of_openai(client):
    assert (await get(client, headers={})).json()["object"] == "list"
    assert (await get(client, f"{PATH}/small", headers={})).json()["object"] == "model"


async def test_pages_go_on_behind_an_id(client):
    assert (await get(client, after_id="small")).json()["data"] == []
    assert (await get(client, before_id="small")).json()["data"] == []
    assert len((await get(client, after_id="other", limit=1)).json()["data"]) == 1


@pytest.mark.parametrize(
    ("path", "params", "status"), [(PATH, {"limit": 0}, 400), (f"{PATH}/other", {}, 404)]
)
async def test_errors_have_the_shape_too(client, path, params, status):
    response = await get(client, path, **params)
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize("path", ["", "/msgbatch_1", "/msgbatch_1/results", "/msgbatch_1/cancel"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_batches_are_refused_with_the_reason(client, method, path):
    response = await client.request(method, f"/v1/messages/batches{path}")
    assert response.status_code == 404
    assert "this server has no batches" in response.json()["error"]["message"]
