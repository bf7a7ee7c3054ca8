from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors import safe_open

from models.gguf.hf_tensors import Weight
from models.gguf.reader import GgufTensor
from models.gguf.shards import shard_names, split, write_shards


def weight(name, *shape):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape[0], -1)
    return Weight(name, GgufTensor(name, shape, "F32", data))


WEIGHTS = [weight("a", 4, 8), weight("b", 8), weight("c", 16, 8), weight("d", 2, 8)]


def read(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def test_a_small_model_is_one_file_that_safetensors_reads(tmp_path):
    write_shards(tmp_path, WEIGHTS, 1 << 20, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = read(tmp_path)
    assert found["b"].dtype == ml_dtypes.bfloat16
    for w in WEIGHTS:
        assert_array_equal(
            found[w.name].astype(np.float32).reshape(w.tensor.data.shape), w.tensor.data
        )


def test_a_larger_one_is_several_with_an_index(tmp_path):
    write_shards(tmp_path, WEIGHTS, 100, lambda _: None)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(w.num_bytes for w in WEIGHTS)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, "numpy") as shard:
            assert name in shard.keys()  # noqa: SIM118
    assert read(tmp_path).keys() == {"a", "b", "c", "d"}


def test_transformers_finds_the_format_it_asks_for(tmp_path):
    write_shards(tmp_path, WEIGHTS, 1 << 20, lambda _: None)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1 << 20, ["abcd"]), (80, ["ab", "c", "d"]), (64, ["a", "b", "c", "d"]), (1, list("abcd"))],
)
def test_weights_share_a_shard_up_to_its_limit(limit, expected):
    assert ["".join(w.name for w in shard) for shard in split(WEIGHTS, limit)] == expected


def test_names_count_from_one():
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(2) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_progress_counts_every_byte_also_of_shards_that_were_there(tmp_path):
    for _ in range(2):
        steps = []
        write_shards(tmp_path, WEIGHTS, 100, steps.append)
        assert sum(steps) == sum(w.num_bytes for w in WEIGHTS)


def test_a_shard_with_its_name_is_kept(tmp_path):
    write_shards(tmp_path, WEIGHTS, 100, lambda _: None)
    first = tmp_path / "model-00001-of-00003.safetensors"
    before = first.stat().st_mtime_ns
    write_shards(tmp_path, WEIGHTS, 100, lambda _: None)
    assert first.stat().st_mtime_ns == before


def test_a_shard_has_no_name_until_it_is_whole(tmp_path):
    seen = []
    write_shards(tmp_path, WEIGHTS, 1 << 20, lambda _: seen.extend(tmp_path.glob("*.safetensors")))
    assert seen == []
