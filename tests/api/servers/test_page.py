"""The page for people and the API's documentation, without anything from outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


async def test_the_page_is_served_at_the_root(client):
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Antipode</title>" in answer.text


async def test_no_other_site_may_run_or_frame_the_page(client):
    policy = (await client.get("/")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
async def test_a_page_loads_nothing_from_outside(client, path):
    text = (await client.get(path)).text
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
    assert loaded
    assert not [address for address in loaded if "//" in address]


async def test_what_a_page_loads_or_links_to_is_there(client):
    addresses = set()
    for path in ("/", "/docs", "/redoc"):
        text = (await client.get(path)).text
        addresses |= set(re.findall(r"""(?:src|href)=["']([^"']+)["']""", text))
    for address in addresses - {"data:,"}:
        answer = await client.get("/" + address.removeprefix("/"))
        assert answer.status_code in (200, 503), address


async def test_every_metric_that_the_page_shows_is_documented(client):
    shown = set(re.findall(r'"(antipode_\w+)"', (await client.get("/")).text))
    assert "antipode_load_ratio" in shown
    documented = set(re.findall(r"`(antipode_\w+)`", Path("docs/metrics.md").read_text()))
    assert shown <= documented
