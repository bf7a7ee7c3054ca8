"""HEAD is GET without its body, and OPTIONS says what a path takes."""

from __future__ import annotations

import pytest

GETS = ["/health", "/readyz", "/livez", "/metrics", "/version", "/v1/models", "/v1/models/small"]
GETS += ["/openapi.json", "/docs"]


@pytest.mark.parametrize("path", [*GETS, "/v1/models/unknown"])
async def test_head_has_the_status_and_the_headers_of_get(client, path):
    get, head = [await client.request(method, path) for method in ("GET", "HEAD")]
    assert head.content == b""
    assert head.status_code == get.status_code
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert head.headers["x-request-id"]


async def test_options_says_what_a_path_takes(client):
    response = await client.options("/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (204, "OPTIONS, POST")
    response = await client.options("/v1/models")
    assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (await client.options("/nothing")).status_code == 404
