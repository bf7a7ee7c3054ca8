"""Compilation is what these tests cost: what is compiled once is shared by all."""

from __future__ import annotations

import pytest

from tests.engine.programs.sampling_bench import Bench


@pytest.fixture(scope="session")
def benches():
    return {num_shards: Bench(num_shards) for num_shards in (1, 2, 4)}


@pytest.fixture(scope="session", params=[1, 2, 4], ids=lambda shards: f"{shards} shards")
def bench(request, benches):
    return benches[request.param]
