"""Every published format, number by number: what is stored means exactly one matrix of floats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from models.checkpoint.checkpoint import Checkpoint, CheckpointError
from models.checkpoint.files import LocalFiles
from models.checkpoint.version_folder import open_version
from models.config import ModelConfigError
from models.huggingface.config_file import read_config
from models.quantized.scheme import QuantizationError, read_scheme
from models.weights.sources import Joined, Shard, sections
from tests.models.checkpoints import LLAMA
from tests.models.quantized.encoding import FORMATS

OUT, IN = 96, 128
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(params=FORMATS)
def stored(request, tmp_path):
    """A checkpoint that holds one matrix in the format, and the matrix."""
    config, encode = FORMATS[request.param]
    tensors, expected = encode(np.random.default_rng(7), OUT, IN)
    save(tmp_path, config, tensors)
    return open_it(tmp_path), expected


def save(folder, config, tensors):
    module = NAME.removesuffix("weight")
    save_file({module + suffix: each for suffix, each in tensors.items()}, folder / "a.safetensors")
    (folder / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": config}))


def open_it(folder) -> Checkpoint:
    checkpoint = open_version(LocalFiles(folder), folder / "copy").checkpoint()
    checkpoint.check(NAME, (OUT, IN))
    return checkpoint


def test_the_whole_matrix_is_what_was_stored(stored):
    checkpoint, expected = stored
    found = checkpoint.read(NAME)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=3e-7)


@pytest.mark.parametrize("rows", [slice(0, 24), slice(40, 72), slice(95, 96)])
@pytest.mark.parametrize("columns", [None, slice(64, 96)])
def test_a_part_of_a_matrix_is_the_same_part_of_the_whole(stored, rows, columns):
    checkpoint, _ = stored
    whole = checkpoint.read(NAME)
    part = whole[rows] if columns is None else whole[rows, columns]
    assert_array_equal(checkpoint.read(NAME, rows, columns), part)


@pytest.mark.parametrize("index", [0, 1])
def test_sections_of_a_matrix_are_split_and_joined_by_shard(stored, index):
    checkpoint, expected = stored
    joined = Joined(sections((NAME, (32, 16, 48))), (IN,))
    assert list(joined.tensors()) == [(NAME, (OUT, IN))]
    parts = np.split(expected, [32, 48])
    own = np.concatenate([np.split(part, 2)[index] for part in parts]).T
    np.testing.assert_allclose(joined.read(checkpoint, Shard(index, 2)), own, rtol=3e-7)


def test_scales_of_modelopts_blocks_cover_what_lies_in_each(tmp_path):
    """The last block of rows is cut."""
    config, encode = FORMATS["modelopt fp8, blocks"]
    tensors, expected = encode(np.random.default_rng(7), 200, 384)
    assert tensors["weight_scale"].shape == (2, 1, 3, 1)
    save(tmp_path, config, tensors)
    checkpoint = open_version(LocalFiles(tmp_path), tmp_path / "copy").checkpoint()
    checkpoint.check(NAME, (200, 384))
    np.testing.assert_allclose(checkpoint.read(NAME), expected, rtol=3e-7)
    part = checkpoint.read(NAME, slice(120, 140), slice(100, 300))
    np.testing.assert_allclose(part, expected[120:140, 100:300], rtol=3e-7)


def test_a_quantized_matrix_is_found_and_read_ahead_by_the_name_of_its_weight(stored):
    checkpoint, _ = stored
    assert NAME in checkpoint
    checkpoint.read_ahead([NAME])
    assert checkpoint.place(NAME)[0] == "a.safetensors"


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_of_another_shape_is_refused_by_name(name, tmp_path):
    config, encode = FORMATS[name]
    tensors, _ = encode(np.random.default_rng(7), OUT, IN)
    save(tmp_path, config, tensors)
    checkpoint = open_version(LocalFiles(tmp_path), tmp_path / "copy").checkpoint()
    with pytest.raises(CheckpointError, match=rf"{NAME} is quantized, and its .* has shape"):
        checkpoint.check(NAME, (2 * OUT, IN))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("compressed int8, rows", "weight_scale"),
        ("compressed w4a16", "weight_scale"),
        ("compressed nvfp4", "weight_scale"),
        ("fp8, blocks", "weight_scale_inv"),
        ("awq", "qzeros"),
        ("gptq", "scales"),
    ],
)
def test_a_matrix_without_its_scales_is_refused_by_name(name, missing, tmp_path):
    config, encode = FORMATS[name]
    tensors, _ = encode(np.random.default_rng(7), OUT, IN)
    del tensors[missing]
    save(tmp_path, config, tensors)
    with pytest.raises(CheckpointError, match=f"{NAME} is quantized, and its {missing} is missing"):
        open_it(tmp_path)


ORDERS = [("gptq", "g_idx"), ("compressed w4a16, zero points", "weight_g_idx")]


def with_groups(name, suffix, groups, tmp_path):
    """The checkpoint with this order of groups, and the matrix without one."""
    config, encode = FORMATS[name]
    tensors, _ = encode(np.random.default_rng(7), OUT, IN)
    del tensors[suffix]
    save(tmp_path, config, tensors)
    in_order = open_it(tmp_path).read(NAME)
    save(tmp_path, config, tensors | {suffix: np.asarray(groups, np.int32)})
    return open_it(tmp_path), in_order


@pytest.mark.parametrize(("name", "suffix"), ORDERS)
def test_groups_that_were_never_ordered_are_in_order(name, suffix, tmp_path):
    """compressed-tensors makes the tensor with -1 in each place, and may leave it so."""
    checkpoint, in_order = with_groups(name, suffix, [-1] * IN, tmp_path)
    assert_array_equal(checkpoint.read(NAME), in_order)


@pytest.mark.parametrize(("name", "suffix"), ORDERS)
@pytest.mark.parametrize("wrong", [-1, 4, 99, -2])
def test_a_group_without_a_scale_is_refused_by_name(name, suffix, wrong, tmp_path):
    checkpoint, _ = with_groups(name, suffix, [0] * (IN - 1) + [wrong], tmp_path)
    message = f"{NAME} is quantized, and its {suffix} names group {wrong}, but .* of 4 groups"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(NAME)


def test_a_weight_stored_as_floats_is_read_as_it_is(tmp_path):
    """The lists of what is not quantized name modules in many ways; the files cannot err."""
    config, _ = FORMATS["compressed w4a16"]
    weight = np.ones((OUT, IN), np.float32)
    save(tmp_path, config, {"weight": weight})
    assert_array_equal(open_it(tmp_path).read(NAME), weight)


@pytest.mark.parametrize("status", ["frozen", "calibration"])
def test_floats_that_were_to_be_compressed_and_were_not_are_read_as_floats(status, tmp_path):
    """The status is of the tool that saved the files; what they hold is in the files."""
    config, _ = FORMATS["compressed int8, rows"]
    weight = np.full((OUT, IN), 0.3, np.float32)
    scale = np.ones((OUT, 1), np.float32)
    save(
        tmp_path,
        config | {"quantization_status": status},
        {"weight": weight, "weight_scale": scale},
    )
    assert_array_equal(open_it(tmp_path).read(NAME), weight)


def test_bytes_without_a_quantization_config_are_refused(tmp_path):
    _, encode = FORMATS["compressed int8, rows"]
    tensors, _ = encode(np.random.default_rng(7), OUT, IN)
    save(tmp_path, None, tensors)
    with pytest.raises(CheckpointError, match=f"{NAME} is stored as I8, which is not supported"):
        open_it(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported; these are: comp"),
        ({"quant_method": None}, "quant_method None is not supported"),
        ({"quant_method": ["awq"]}, "is not supported; these are"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ's version 'gemv'"),
        ({"quant_method": "awq", "bits": 4, "format": "gemv_fast"}, "AWQ's version 'gemv_fast'"),
        ({"quant_method": "awq", "bits": 4, "backend": "llm-awq"}, "backend llm-awq"),
        ({"quant_method": "gptq", "bits": 4, "format": "marlin"}, "'marlin' is not supported"),
        ({"quant_method": "awq", "bits": 3}, "bits 3 is not supported; 4 can be read"),
        ({"quant_method": "gptq", "bits": 3}, "bits 3 is not supported; 2 and 4 and 8"),
        ({"quant_method": "gptq", "bits": True}, "bits True is not supported"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt 'e5m2' is not supported"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "must be two sizes, not"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "must be two sizes, not"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, "quant_algo 'W4A8'"),
        ({"quant_method": "compressed-tensors"}, "config_groups must name at least one"),
        (
            FORMATS["compressed w4a16"][0] | {"sparsity_config": {"format": "marlin-24"}},
            "sparsity_config is not supported",
        ),
        (
            FORMATS["compressed w4a16"][0] | {"transform_config": {"config_groups": {"u": {}}}},
            "transform_config is not supported",
        ),
        (
            FORMATS["compressed w4a16"][0] | {"transform_config": {"rotation": "hadamard"}},
            "transform_config is not supported",
        ),
        (
            FORMATS["compressed w4a16"][0] | {"config_groups": {"kv": {"weights": None}}},
            "config_groups: kv say nothing of their weights",
        ),
        ({"quant_method": "modelopt", "quant_algo": None}, "quant_algo None is not supported"),
    ],
    ids=str,
)
def test_a_scheme_that_is_not_read_is_refused_in_a_sentence(change, message):
    with pytest.raises(QuantizationError, match=message):
        read_scheme({"quantization_config": change})


@pytest.mark.parametrize(
    ("named", "same"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "format": "gptq_v2"},
            {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
        ),
        (
            {"quant_method": "gptq", "bits": 4, "checkpoint_format": "GPTQ", "format": "gptq_v2"},
            {"quant_method": "gptq", "bits": 4},
        ),
        ({"quant_method": "awq", "bits": 4, "format": "gemm"}, FORMATS["awq"][0]),
        ({"quant_method": "fp8"}, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ],
)
def test_a_layout_goes_by_the_name_that_transformers_gives_it_too(named, same):
    assert read_scheme({"quantization_config": named}) == read_scheme({"quantization_config": same})


def test_a_group_of_activations_and_transforms_of_nothing_change_no_weight():
    config, _ = FORMATS["compressed w4a16"]
    groups = config["config_groups"] | {"kv": {"weights": None, "output_activations": {}}}
    more = config | {"config_groups": groups, "transform_config": {"config_groups": {}}}
    assert read_scheme({"quantization_config": more}) == read_scheme(
        {"quantization_config": config}
    )


@pytest.mark.parametrize("place", ["config.json", "text_config", "hf_quant_config.json"])
def test_a_scheme_is_found_wherever_a_folder_has_it(place, tmp_path):
    config, encode = FORMATS["modelopt fp8"]
    tensors, expected = encode(np.random.default_rng(7), OUT, IN)
    save(tmp_path, None, tensors)
    text = {key: LLAMA[key] for key in LLAMA if key != "architectures"}
    hf = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text}
    if place == "hf_quant_config.json":
        written = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
        (tmp_path / place).write_text(json.dumps(written))
    else:
        (hf if place == "config.json" else text)["quantization_config"] = config
    (tmp_path / "config.json").write_text(json.dumps(hf))
    np.testing.assert_allclose(open_it(tmp_path).read(NAME), expected, rtol=3e-7)
    assert read_config(tmp_path).stored_bits == 8


@pytest.mark.parametrize(
    ("written", "message"),
    [("[", "hf_quant_config.json cannot be read"), ('{"quantization": 3}', "an object, not 3")],
)
def test_a_file_beside_config_json_that_says_nothing_is_refused(written, message, tmp_path):
    save(tmp_path, None, {"weight": np.ones((OUT, IN), np.float32)})
    (tmp_path / "hf_quant_config.json").write_text(written)
    with pytest.raises(CheckpointError, match=message):
        open_it(tmp_path)
    with pytest.raises(ModelConfigError, match=message):
        read_config(tmp_path)


def test_keys_and_values_alone_that_are_quantized_change_no_weight(tmp_path):
    written = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    save(tmp_path, None, {"weight": np.ones((OUT, IN), np.float32)})
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(written))
    assert_array_equal(open_it(tmp_path).read(NAME), 1)
    assert read_config(tmp_path).stored_bits is None


def test_a_quantization_config_that_is_no_object_is_refused():
    with pytest.raises(QuantizationError, match="must be an object, not 'awq'"):
        read_scheme({"quantization_config": "awq"})


@pytest.mark.parametrize(
    ("name", "bits"), [("compressed w4a16", 4), ("fp8, blocks", 8), ("gptq int8", 8)]
)
def test_the_bits_of_a_weight_are_told(name, bits):
    assert read_scheme({"quantization_config": FORMATS[name][0]}).bits == bits
