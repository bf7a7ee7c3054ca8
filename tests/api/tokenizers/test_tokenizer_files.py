"""Tokenizer files as published checkpoints have them: read, or refused by the name of the file."""

from __future__ import annotations

import json

import pytest

from server.api.tokenizers.tokenizer import Tokenizer
from server.api.tokenizers.tokenizer_files import TokenizerError
from tests.api.fakes import CHAT_TEMPLATE, small_pretrained

HELLO = [{"role": "user", "content": "hello"}]
RENDERED = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def folder(tmp_path):
    """A tokenizer without a chat template."""
    small_pretrained(chat_template=None).save_pretrained(tmp_path)
    return tmp_path


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder):
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(folder)
    return str(error.value)


def test_a_chat_template_is_found_in_each_of_its_files(folder):
    for name, content in (
        ("chat_template.jinja", CHAT_TEMPLATE),
        ("chat_template.json", json.dumps({"chat_template": CHAT_TEMPLATE})),
    ):
        (folder / name).write_text(content)
        assert Tokenizer.load(folder).render_chat(HELLO) == RENDERED
        (folder / name).unlink()
    change(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    assert Tokenizer.load(folder).render_chat(HELLO) == RENDERED


def test_one_of_several_templates_is_the_default(folder):
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    change(folder / "tokenizer_config.json", chat_template=named)
    assert Tokenizer.load(folder).render_chat(HELLO) == RENDERED


@pytest.mark.parametrize("template", [5, ["x"], {"default": 5}])
def test_a_template_that_is_no_text_is_refused_by_name(folder, template):
    written = json.dumps({"chat_template": template})
    (folder / "chat_template.json").write_text(written)
    assert f"{folder}: chat_template must be a text, or texts with names" in refusal(folder)


@pytest.mark.parametrize("template", [5, {"default": 5}])
def test_a_template_of_the_configuration_that_is_no_text_is_refused_by_name(folder, template):
    change(folder / "tokenizer_config.json", chat_template=template)
    assert f"{folder}: chat_template must be a text, or texts with names" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "fault"),
    [("[]", "is not a JSON object"), ("{", "cannot be read: "), (b"\xff", "cannot be read: ")],
)
def test_a_file_of_a_template_that_cannot_be_read_is_named(folder, content, fault):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "chat_template.json").write_bytes(raw)
    assert refusal(folder).startswith(f"{folder / 'chat_template.json'} {fault}")


def test_a_tokenizer_of_a_newer_release_is_named(folder):
    change(folder / "tokenizer.json", pre_tokenizer={"type": "NotYetKnown"})
    message = refusal(folder)
    assert message.startswith(f"{folder / 'tokenizer.json'} cannot be read: ")
    assert "newer release" in message


def test_a_tokenizer_that_is_no_json_is_named(folder):
    (folder / "tokenizer.json").write_text("version https://git-lfs.example/spec/v1")
    assert refusal(folder).startswith(
        f"{folder / 'tokenizer.json'} cannot be read: Expecting value"
    )


def test_a_file_that_git_lfs_did_not_fetch_is_named(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "tokenizer.json").write_text(pointer)
    assert "git lfs pull" in refusal(folder)


def test_a_configuration_that_is_no_json_is_named(folder):
    (folder / "tokenizer_config.json").write_text("{")
    assert refusal(folder).startswith(f"{folder / 'tokenizer_config.json'} cannot be read: ")


def test_a_folder_without_a_vocabulary_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    assert refusal(folder).startswith(f"{folder} has no tokenizer.json; make tokenizer.json where")


def test_a_vocabulary_that_cannot_be_converted_is_named(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"no model")
    assert refusal(folder).startswith(f"{folder} has tokenizer.model but no tokenizer.json")


def test_code_of_the_checkpoint_is_refused_without_a_question(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    auto_map = {"AutoTokenizer": ["tok.Own", None]}
    change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Own")
    (folder / "tok.py").write_text("raise SystemExit('the code ran')")
    message = refusal(folder)
    assert message.startswith(f"{folder / 'tokenizer_config.json'}: auto_map names code")
    assert "runs no code" in message


@pytest.mark.parametrize(
    ("model_type", "named", "expected"),
    [
        pytest.param("qwen2", "PreTrainedTokenizerFast", "Qwen2Tokenizer", id="by model type"),
        pytest.param("llama", "Qwen2Tokenizer", "Qwen2Tokenizer", id="by the name of a class"),
        pytest.param("gemma3_text", "GemmaTokenizerFast", "GemmaTokenizer", id="by both"),
        pytest.param("llama", "PreTrainedTokenizerFast", "", id="the file as it is"),
    ],
)
def test_a_file_that_transformers_overrules_is_told(folder, caplog, model_type, named, expected):
    """Here the file has no normalizer, and both families have one."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    change(folder / "tokenizer_config.json", tokenizer_class=named)
    Tokenizer.load(folder)
    told = [one.getMessage() for one in caplog.records if one.name.endswith("tokenizer_files")]
    assert len(told) == bool(expected)
    if expected:
        assert f"{folder / 'tokenizer.json'} splits text otherwise than the {expected}" in told[0]


def test_a_file_that_a_family_reads_as_it_is_is_not_told(folder, caplog):
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    Tokenizer.load(folder)._pretrained.save_pretrained(folder)
    caplog.clear()
    Tokenizer.load(folder)
    assert not [one for one in caplog.records if one.name.endswith("tokenizer_files")]
