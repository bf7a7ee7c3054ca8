from __future__ import annotations

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from models.checkpoint.checkpoint import Checkpoint, CheckpointError

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(5, dtype=np.float16)


@pytest.fixture
def folder(tmp_path):
    """Two shards and their index."""
    save_file({"a": A}, tmp_path / "model-1.safetensors")
    save_file({"b": B}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_raw(path, dtype, shape, num_bytes):
    """A file of one tensor `a`, all zeros, in any dtype that the format has a word for."""
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}
    header = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(num_bytes))


def refusal(folder, then=lambda checkpoint: None):
    with pytest.raises(CheckpointError) as error:
        then(Checkpoint(folder))
    return str(error.value)


class TestReading:
    def test_tensors_are_found_in_whichever_file(self, folder):
        checkpoint = Checkpoint(folder)
        assert "a" in checkpoint
        assert "b" in checkpoint
        assert "c" not in checkpoint
        assert_array_equal(checkpoint.read("a"), A)
        assert_array_equal(checkpoint.read("b"), B)

    def test_parts_are_cut_by_rows_and_columns(self, folder):
        checkpoint = Checkpoint(folder)
        assert_array_equal(checkpoint.read("a", slice(1, 3)), A[1:3])
        assert_array_equal(checkpoint.read("a", slice(None), slice(2, 4)), A[:, 2:4])
        assert_array_equal(checkpoint.read("b", slice(4, 5)), B[4:])

    def test_the_stored_dtype_is_kept(self, folder):
        save_file({"a": A.astype(jnp.bfloat16)}, folder / "model-1.safetensors")
        assert Checkpoint(folder).read("a").dtype == jnp.bfloat16
        assert Checkpoint(folder).read("b").dtype == np.float16

    def test_one_file_needs_no_index(self, tmp_path):
        save_file({"a": A}, tmp_path / "model.safetensors")
        assert_array_equal(Checkpoint(tmp_path).read("a"), A)

    def test_a_file_that_the_index_does_not_name_is_not_read(self, folder):
        """Some checkpoints hold a second copy in another layout."""
        save_file({"a": A + 1, "c": A}, folder / "consolidated.safetensors")
        assert "c" not in Checkpoint(folder)
        assert_array_equal(Checkpoint(folder).read("a"), A)

    def test_mistrals_own_copy_of_the_weights_is_not_read_beside_the_other(self, tmp_path):
        save_file({"model.norm.weight": A}, tmp_path / "model.safetensors")
        save_file({"norm.weight": A + 1}, tmp_path / "consolidated.safetensors")
        assert_array_equal(Checkpoint(tmp_path).read("model.norm.weight"), A)
        (tmp_path / "model.safetensors").unlink()
        assert_array_equal(Checkpoint(tmp_path).read("model.norm.weight"), A + 1)

    def test_a_file_that_git_lfs_did_not_fetch_is_named(self, tmp_path):
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        (tmp_path / "model.safetensors").write_bytes(pointer)
        assert "model.safetensors is a pointer of Git LFS" in refusal(tmp_path)

    def test_the_index_says_which_of_two_copies_is_meant(self, folder):
        save_file({"b": B, "a": A + 1}, folder / "model-2.safetensors")
        assert_array_equal(Checkpoint(folder).read("a"), A)
        write_index(folder, {"a": "model-2.safetensors", "b": "model-2.safetensors"})
        assert_array_equal(Checkpoint(folder).read("a"), A + 1)


class TestRefusal:
    def test_two_copies_of_a_tensor_without_an_index(self, tmp_path):
        save_file({"a": A, "b": B}, tmp_path / "model.safetensors")
        save_file({"a": A + 1}, tmp_path / "old.safetensors")
        message = refusal(tmp_path)
        assert message.startswith(f"{tmp_path}: tensor a is in model.safetensors and in old.safe")

    def test_a_tensor_that_is_not_where_the_index_says(self, folder):
        write_index(folder, {"a": "model-2.safetensors", "b": "model-2.safetensors"})
        message = refusal(folder)
        assert message.startswith(f"{folder / 'model-2.safetensors'}: tensor a is missing, though")

    def test_an_index_without_tensors(self, folder):
        write_index(folder, {})
        assert refusal(folder).endswith("model.safetensors.index.json names no tensor")

    def test_a_folder_without_weights(self, tmp_path):
        assert refusal(tmp_path) == f"{tmp_path} holds no *.safetensors file"

    def test_a_shard_that_is_not_there(self, folder):
        (folder / "model-2.safetensors").unlink()
        message = refusal(folder)
        assert message.startswith(f"{folder / 'model-2.safetensors'} is missing")
        assert "index.json names it" in message

    @pytest.mark.parametrize("keep", [0, 4, 40, -1])
    def test_a_shard_that_is_cut_off(self, folder, keep):
        shard = folder / "model-1.safetensors"
        shard.write_bytes(shard.read_bytes()[:keep])
        assert f"{shard} is truncated or not a safetensors file" in refusal(folder)

    def test_a_header_that_is_nested_without_end(self, folder):
        shard, header = folder / "model-1.safetensors", b"[" * 100_000
        shard.write_bytes(struct.pack("<Q", len(header)) + header)
        assert f"{shard} is truncated or not a safetensors file" in refusal(folder)

    def test_a_file_that_is_something_else(self, folder):
        (folder / "model-1.safetensors").write_text("version https://git-lfs.example/spec/v1\n" * 4)
        assert "model-1.safetensors is truncated or not a safetensors file" in refusal(folder)

    @pytest.mark.parametrize(
        "index", ["", "{", "[]", "null", '{"weights": {}}', '{"weight_map": [1]}', "3"]
    )
    def test_an_index_that_is_none(self, folder, index):
        (folder / "model.safetensors.index.json").write_text(index)
        assert "model.safetensors.index.json cannot be read" in refusal(folder)

    def test_an_index_of_something_else_than_file_names(self, folder):
        write_index(folder, {"a": 3})
        assert "model.safetensors.index.json cannot be read" in refusal(folder)

    def test_an_index_that_cannot_be_opened(self, folder):
        (folder / "model.safetensors.index.json").unlink()
        (folder / "model.safetensors.index.json").mkdir()
        assert "model.safetensors.index.json cannot be read" in refusal(folder)


class TestCheck:
    def test_what_is_right_passes(self, folder):
        Checkpoint(folder).check("a", (3, 4))
        Checkpoint(folder).check("b", (5,))

    def test_a_missing_tensor_is_named(self, folder):
        message = refusal(folder, lambda checkpoint: checkpoint.check("c", (1,)))
        assert message == f"{folder}: tensor c is missing"

    @pytest.mark.parametrize("shape", [(4, 3), (12,), (3, 4, 1)])
    def test_another_shape_is_named_with_the_one_asked_for(self, folder, shape):
        message = refusal(folder, lambda checkpoint: checkpoint.check("a", shape))
        assert f"{folder / 'model-1.safetensors'}: tensor a has shape [3, 4]" in message
        assert str(list(shape)) in message

    @pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"])
    def test_what_would_need_scales_is_refused(self, tmp_path, dtype):
        write_raw(tmp_path / "model.safetensors", dtype, [4], 16 if dtype == "I32" else 4)
        message = refusal(tmp_path, lambda checkpoint: checkpoint.check("a", (4,)))
        assert f"tensor a is stored as {dtype}, which is not supported" in message
        assert message.endswith("these are: F64, F32, F16, BF16")

    def test_a_dtype_nobody_knows_is_refused_with_the_file(self, tmp_path):
        write_raw(tmp_path / "model.safetensors", "F99", [4], 4)
        message = refusal(tmp_path)
        assert f"{tmp_path / 'model.safetensors'} is truncated or not a safetensors file" in message
        assert "F99" in message
