from __future__ import annotations

import pytest

from models.gguf.architectures import architecture_of
from models.gguf.reader import GgufError, GgufFile
from tests.models.gguf.files import model_file


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")],
)
def test_a_known_family_has_its_architecture(tmp_path, name, class_name):
    file = GgufFile(model_file(name).write(tmp_path / "m.gguf"))
    assert architecture_of(file).class_name == class_name


def test_an_unknown_family_is_refused_by_name(tmp_path):
    file = GgufFile(model_file("gemma").write(tmp_path / "m.gguf"))
    with pytest.raises(GgufError, match=r"'gemma' is not supported; known: \['gemma2', 'gemma3'"):
        architecture_of(file)


def test_experts_are_refused(tmp_path):
    model = model_file()
    model.metadata["llama.expert_count"] = 8
    with pytest.raises(GgufError, match="experts"):
        architecture_of(GgufFile(model.write(tmp_path / "m.gguf")))
