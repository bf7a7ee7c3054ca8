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
from models.quantized.scheme import QuantizationError, read_scheme
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
            FORMATS["compressed w4a16"][0] | {"transform_config": {"config_groups": {}}},
            "transform_config is not supported",
        ),
        (
            FORMATS["compressed w4a16"][0] | {"quantization_status": "frozen"},
            "quantization_status is 'frozen'",
        ),
    ],
    ids=str,
)
def test_a_scheme_that_is_not_read_is_refused_in_a_sentence(change, message):
    with pytest.raises(QuantizationError, match=message):
        read_scheme({"quantization_config": change})


def test_a_quantization_config_that_is_no_object_is_refused():
    with pytest.raises(QuantizationError, match="must be an object, not 'awq'"):
        read_scheme({"quantization_config": "awq"})


@pytest.mark.parametrize(
    ("name", "bits"), [("compressed w4a16", 4), ("fp8, blocks", 8), ("gptq int8", 8)]
)
def test_the_bits_of_a_weight_are_told(name, bits):
    assert read_scheme({"quantization_config": FORMATS[name][0]}).bits == bits
