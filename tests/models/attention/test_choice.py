from __future__ import annotations

import pytest

from models.attention import choice
from models.attention.choice import BackendError, choose_backend
from models.attention.pallas_rpa import PallasAttention
from models.attention.tokamax_rpa import TokamaxAttention
from models.attention.xla import XlaAttention
from models.huggingface.config_file import parse_config
from tests.models.checkpoints import LLAMA

WIDE = parse_config(LLAMA | {"head_dim": 128})
NARROW = parse_config(LLAMA | {"head_dim": 64})
# Heads of 128 in local layers, of 512 in global ones.
TWO_SIZES = parse_config(
    LLAMA
    | {"architectures": ["Gemma4ForCausalLM"], "head_dim": 128, "hidden_size_per_layer_input": 0}
)
THREE_HEADS = {"head_dim": 128, "num_attention_heads": 12, "num_key_value_heads": 3}


@pytest.fixture
def no_tokamax(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_elsewhere_than_on_a_tpu_it_is_xla(platform):
    assert choose_backend("auto", platform, WIDE, 1) == XlaAttention()


@pytest.mark.parametrize("config", [WIDE, NARROW])
def test_on_a_tpu_it_is_tokamax(config, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: object())
    assert choose_backend("auto", "tpu", config, 1) == TokamaxAttention()


@pytest.mark.parametrize(
    ("config", "tensor_size", "backend"),
    [
        (WIDE, 1, PallasAttention()),
        (WIDE, 4, PallasAttention()),
        (WIDE, 8, PallasAttention()),
        (NARROW, 1, XlaAttention()),
        (parse_config(LLAMA | THREE_HEADS), 1, XlaAttention()),
        (TWO_SIZES, 1, XlaAttention()),
    ],
)
@pytest.mark.usefixtures("no_tokamax")
def test_without_tokamax_the_shape_decides(config, tensor_size, backend):
    assert choose_backend("auto", "tpu", config, tensor_size) == backend


def test_a_named_backend_is_taken():
    assert choose_backend("xla", "tpu", WIDE, 1) == XlaAttention()
    assert choose_backend("pallas", "tpu", WIDE, 1) == PallasAttention()


@pytest.mark.parametrize(
    ("name", "platform", "config", "sentence"),
    [
        ("tokamax", "cpu", WIDE, "runs on TPU only; on cpu use xla"),
        ("pallas", "cuda", WIDE, "runs on TPU only"),
        ("pallas", "tpu", NARROW, "needs head_dim 128 .* this model has head_dim 64"),
        ("pallas", "tpu", TWO_SIZES, "needs head_dim 128 .* this model has head_dim 512"),
        ("tokamax", "tpu", WIDE, "needs the package tokamax"),
    ],
)
@pytest.mark.usefixtures("no_tokamax")
def test_a_backend_that_is_not_possible_is_refused_with_the_possible_ones(
    name, platform, config, sentence
):
    with pytest.raises(BackendError, match=sentence):
        choose_backend(name, platform, config, 1)
