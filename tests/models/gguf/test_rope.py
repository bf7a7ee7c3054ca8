from __future__ import annotations

import math

import numpy as np
import pytest

from models.gguf.reader import GgufError, GgufFile
from models.gguf.rope import FREQUENCY_DIVISORS, rope_parameters
from tests.models.gguf.files import HEAD_DIM, model_file


def read(tmp_path, extra_metadata=None, divisors=None, head_dim=HEAD_DIM):
    model = model_file()
    model.metadata |= extra_metadata or {}
    if divisors is not None:
        model.extra_tensors[FREQUENCY_DIVISORS] = np.asarray(divisors, np.float32)
    return rope_parameters(GgufFile(model.write(tmp_path / "m.gguf")), head_dim)


def llama3_divisors(theta, head_dim, factor, low, high, original):
    """As a converter to GGUF computes them, from wavelengths in tokens."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


def test_rope_without_scaling_is_default(tmp_path):
    assert read(tmp_path) == {"rope_theta": 5000.0, "rope_type": "default"}


def test_linear_rope_scaling_is_read(tmp_path):
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert read(tmp_path, scaling) == {"rope_theta": 5000.0, "rope_type": "linear", "factor": 4.0}


def test_yarn_rope_scaling_is_read(tmp_path):
    scaling = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128,
    }
    parameters = read(tmp_path, scaling)
    assert parameters["rope_type"] == "yarn"
    assert parameters["original_max_position_embeddings"] == 128


def test_another_scaling_is_refused_by_name(tmp_path):
    scaling = {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}
    with pytest.raises(GgufError, match="'longrope'"):
        read(tmp_path, scaling)


def test_a_number_of_a_scaling_that_is_not_read_is_refused_by_name(tmp_path):
    scaling = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128,
        "llama.rope.scaling.yarn_log_multiplier": 0.1,
    }
    with pytest.raises(GgufError, match=r"llama\.rope\.scaling\.yarn_log_multiplier is not supp"):
        read(tmp_path, scaling)


def test_rotating_part_of_a_head_is_refused(tmp_path):
    with pytest.raises(GgufError, match="part of a head"):
        read(tmp_path, {"llama.rope.dimension_count": HEAD_DIM // 2})


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_numbers_of_llama_3_are_recovered_from_its_divisors(tmp_path, head_dim, factor):
    published = llama3_divisors(500_000.0, head_dim, factor, 1.0, 4.0, 8192)
    theta = {"llama.rope.freq_base": 500_000.0}
    assert read(tmp_path, theta, published, head_dim) == {
        "rope_theta": 500_000.0,
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize("divisors", [np.ones(32), np.linspace(1, 30, 32), np.geomspace(1, 9, 32)])
def test_divisors_of_another_origin_are_refused(tmp_path, divisors):
    with pytest.raises(GgufError, match="not a scaling of the kind Llama 3 has"):
        read(tmp_path, None, divisors, head_dim=64)
