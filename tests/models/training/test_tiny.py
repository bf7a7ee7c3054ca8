"""What `models/tiny` promises, measured on held-out files of the Python that runs the tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

import models
from models.checkpoint import manifest
from models.huggingface.config_file import read_config
from models.training.corpus import is_held_out, read_corpus
from models.training.figures import bits_per_byte, gzip_bits_per_byte
from models.training.recipe import CONFIG
from models.training.vocabulary import BOS_ID, SPECIAL_TOKENS
from tests.golden import texts

FOLDER = Path(models.__file__).parent / "tiny"
VERSIONS = ("1", "2")
# About 100 kB: some seconds for both versions.
FILES = ("asyncio/events.py", "email/generator.py", "functools.py", "xml/sax/saxutils.py")


@pytest.fixture(scope="module")
def held_out():
    corpus = read_corpus()
    return [corpus.held_out[name] for name in FILES]


@pytest.fixture(scope="module")
def figures(held_out):
    return {version: bits_per_byte(FOLDER / version, held_out) for version in VERSIONS}


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    return FOLDER / request.param


@pytest.fixture(scope="module")
def tokenizer(version):
    return AutoTokenizer.from_pretrained(version)


def test_the_files_it_is_measured_on_were_held_out():
    assert all(map(is_held_out, FILES))


def test_both_versions_are_better_than_gzip(figures, held_out):
    assert max(figures.values()) < gzip_bits_per_byte(held_out)


def test_version_2_is_at_least_five_per_cent_better_than_version_1(figures):
    assert figures["2"] <= 0.95 * figures["1"]


def test_a_version_is_whole_and_at_most_8_mb(version):
    manifest.verify(version)
    assert sum(path.stat().st_size for path in version.iterdir()) <= 8_000_000


def test_tiny_has_two_to_four_million_parameters_in_bfloat16(version):
    with safe_open(version / "model.safetensors", "numpy") as file:
        tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        sizes = [tensor.get_shape() for tensor in tensors]
        assert {tensor.get_dtype() for tensor in tensors} == {"BF16"}
    parameters = sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in sizes)
    assert 2_000_000 <= parameters <= 4_000_000


def test_the_heads_of_tiny_split_over_up_to_eight_chips(version):
    config = read_config(version)
    assert (config.num_heads, config.num_kv_heads) == (8, 4)


def test_transformers_reads_the_same_configuration(version):
    config = AutoConfig.from_pretrained(version)
    assert config.architectures == ["LlamaForCausalLM"]
    assert json.loads((version / "config.json").read_text()) == dict(CONFIG)
    for key in ("hidden_size", "num_hidden_layers", "tie_word_embeddings", "vocab_size"):
        assert getattr(config, key) == CONFIG[key], key


def test_the_tokenizer_of_tiny_names_its_special_tokens(tokenizer):
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert named == SPECIAL_TOKENS
    assert 2048 <= len(tokenizer) == CONFIG["vocab_size"] <= 4096


@pytest.mark.parametrize("text", texts.TOKENIZER)
def test_the_tokenizer_of_tiny_loses_nothing(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == BOS_ID
    assert tokenizer.decode(ids[1:]) == text


def test_a_chat_is_its_messages_one_after_the_other(tokenizer):
    chat = [{"role": "system", "content": "# Fast."}, {"role": "user", "content": "def f():"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|bos|># Fast.\ndef f():"
