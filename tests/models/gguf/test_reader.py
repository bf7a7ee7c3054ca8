from __future__ import annotations

import subprocess
import sys

import gguf
import numpy as np
import pytest

from models.gguf.reader import GgufError, GgufFile
from tests.models.gguf.files import HIDDEN, TOKENS, model_file


@pytest.fixture
def path(tmp_path):
    return model_file().write(tmp_path / "model.gguf")


def test_metadata_comes_as_plain_values(path):
    file = GgufFile(path)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == TOKENS


def test_a_missing_key_is_named(path):
    with pytest.raises(GgufError, match=r"no metadata key llama\.colour"):
        GgufFile(path).required("llama.colour")


def test_tensors_have_the_shape_the_model_has(path):
    tensors = GgufFile(path).tensors
    assert tensors["token_embd.weight"].shape == (len(TOKENS), HIDDEN)
    assert tensors["blk.0.attn_norm.weight"].shape == (HIDDEN,)
    assert tensors["blk.1.ffn_gate.weight"].encoding == "F32"


@pytest.mark.parametrize("encoding", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_rows_are_dequantized_one_by_one_or_all_at_once(tmp_path, encoding):
    model = model_file()
    kind = gguf.GGMLQuantizationType[encoding]
    model.encodings["blk.0.ffn_gate.weight"] = kind
    tensor = GgufFile(model.write(tmp_path / "m.gguf")).tensors["blk.0.ffn_gate.weight"]
    whole = tensor.rows(slice(None))
    original = model.weights["model.layers.0.mlp.gate_proj.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    assert np.array_equal(whole, expected)
    assert np.array_equal(tensor.rows(np.array([5, 2, 2])), expected[[5, 2, 2]])


@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16"])
def test_a_one_dimensional_tensor_has_rows_of_one(tmp_path, encoding):
    model = model_file()
    model.weights["model.norm.weight"] = np.arange(HIDDEN, dtype=np.float32)
    model.encodings["output_norm.weight"] = gguf.GGMLQuantizationType[encoding]
    tensor = GgufFile(model.write(tmp_path / "m.gguf")).tensors["output_norm.weight"]
    assert np.array_equal(tensor.rows(slice(2, 5)), [[2.0], [3.0], [4.0]])


def test_an_unreadable_encoding_is_refused_by_name(tmp_path):
    model = model_file()
    model.encodings["blk.0.ffn_up.weight"] = gguf.GGMLQuantizationType.TQ1_0
    model.weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((96, 256), np.float32)
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    with pytest.raises(GgufError, match=r"blk\.0\.ffn_up\.weight is stored as TQ1_0"):
        _ = file.tensors


@pytest.mark.parametrize("kept", [0, 3, 40, 2000, 60_000])
def test_a_truncated_file_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(GgufError, match="not a whole GGUF file"):
        GgufFile(path)


def test_something_else_is_refused(path):
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(GgufError, match="not a whole GGUF file"):
        GgufFile(path)


def test_the_header_tells_two_files_apart(tmp_path, path):
    other = model_file()
    other.metadata["llama.context_length"] = 512
    assert GgufFile(path).header_bytes != GgufFile(other.write(tmp_path / "o.gguf")).header_bytes


def test_without_the_package_the_error_says_how_to_get_it(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(GgufError, match="uv sync --extra demo"):
        GgufFile(path)


def test_the_package_is_imported_only_when_a_file_is_opened():
    code = "import sys, models.demo; sys.exit('gguf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
