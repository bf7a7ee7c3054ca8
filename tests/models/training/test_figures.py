from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.training.figures import WINDOW, bits_per_byte, gzip_bits_per_byte
from models.training.vocabulary import EOS_ID, train_tokenizer
from tests.golden import texts
from tests.models import naive
from tests.models.checkpoints import LLAMA, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder)
    tokenizer = train_tokenizer(texts.PYTHON, LLAMA["vocab_size"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, tokenizer


def naive_bits(checkpoint, text):
    folder, tokenizer = checkpoint
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    tokens, bits = [*tokenizer.encode(text).ids, EOS_ID], 0.0
    for start in range(0, len(tokens) - 1, WINDOW):
        window = tokens[start : start + WINDOW + 1]
        logits = naive.forward(config, tensors, window[:-1])
        chosen = logits[np.arange(len(logits)), window[1:]]
        bits += float(np.sum(np.logaddexp.reduce(logits, axis=1) - chosen)) / math.log(2)
    return bits


def test_gzip_is_measured_on_the_texts_joined_at_its_strongest():
    a, b = "import os\n" * 20, "import sys\nimport os\n" * 20
    expected = 8 * len(gzip.compress((a + b).encode(), compresslevel=9)) / len(a + b)
    assert gzip_bits_per_byte([a, b]) == expected


def test_bytes_are_counted_not_characters():
    assert gzip_bits_per_byte(["é"]) == pytest.approx(8 * len(gzip.compress("é".encode(), 9)) / 2)


def test_every_token_and_the_end_of_each_text_is_paid_for_once(checkpoint):
    found = [texts.PYTHON[2], "", "π = 3\n" * 150]
    size = sum(len(text.encode()) for text in found)
    expected = sum(naive_bits(checkpoint, text) for text in found) / size
    assert bits_per_byte(checkpoint[0], found) == pytest.approx(expected, rel=1e-4)


def test_the_order_and_number_of_texts_do_not_matter(checkpoint):
    found = ["x = 1\n" * (i + 1) for i in range(10)]
    assert bits_per_byte(checkpoint[0], found[::-1]) == pytest.approx(
        bits_per_byte(checkpoint[0], found), rel=1e-5
    )
