"""Small GGUF files for tests: a random model in the Hugging Face layout, as llama.cpp writes it.

The way there is written down here a second time, in the other direction, so that a mistake in the
import cannot hide behind itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
HIDDEN, MLP, LAYERS = 64, 96, 2
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CONTROL = ["<|end|>", "<|start|>"]
TOKENS = [*CONTROL, *BYTES, "Ġt", "he", "Ġthe", "12"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2"]

type Array = NDArray[np.float32]


@dataclass
class ModelFile:
    """A GGUF file to be: `weights` is the model under Hugging Face names, what import must give."""

    metadata: dict[str, Any]
    weights: dict[str, Array]
    encodings: dict[str, gguf.GGMLQuantizationType] = field(default_factory=dict)
    extra_tensors: dict[str, Array] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        arch = self.metadata["general.architecture"]
        writer = gguf.GGUFWriter(path, arch)
        for key, value in self.metadata.items():
            if key != "general.architecture":
                _add(writer, key, value)
        for name, weight in _merged_experts(self.weights).items():
            gguf_name = _gguf_name(arch, name)
            rotated = arch == "llama" and (".attn_q." in gguf_name or ".attn_k." in gguf_name)
            stored = interleave(weight) if rotated else weight
            if arch.startswith("gemma") and name.endswith("norm.weight"):
                stored = stored + np.float32(1)
            encoding = self.encodings.get(gguf_name, gguf.GGMLQuantizationType.F32)
            writer.add_tensor(gguf_name, gguf.quants.quantize(stored, encoding), raw_dtype=encoding)
        for name, tensor in self.extra_tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def interleave(weight: Array) -> Array:
    """What llama.cpp does to a q or k weight: halves of a head become neighbours."""
    heads = weight.reshape(-1, 2, HEAD_DIM // 2, *weight.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(weight.shape))


def model_file(architecture: str = "llama", *, tied: bool = True, seed: int = 0) -> ModelFile:
    """A random model of the family, its tokenizer byte-level BPE under the rule `smollm`."""
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in _shapes(architecture, tied).items()
    }
    return ModelFile(_metadata(architecture), weights)


def _metadata(architecture: str) -> dict[str, Any]:
    sizes = {
        "context_length": 256,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": MLP,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
    }
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


def _shapes(architecture: str, tied: bool) -> dict[str, tuple[int, ...]]:
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "self_attn.q_proj.weight": (q, HIDDEN),
        "self_attn.k_proj.weight": (kv, HIDDEN),
        "self_attn.v_proj.weight": (kv, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, q),
        "post_attention_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (MLP, HIDDEN),
        "mlp.up_proj.weight": (MLP, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, MLP),
    }
    if architecture == "qwen2":
        layer |= {f"self_attn.{name}_proj.bias": (q if name == "q" else kv,) for name in "qkv"}
    if architecture == "qwen3":
        layer |= {f"self_attn.{name}_norm.weight": (HEAD_DIM,) for name in "qk"}
    shapes = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes if tied else shapes | {"lm_head.weight": (len(TOKENS), HIDDEN)}


def _gguf_name(architecture: str, name: str) -> str:
    """The name that llama.cpp's own table has for the weight."""
    found = _name_map(architecture).get_name(name, (".weight", ".bias"))
    assert found is not None, name
    return found


@cache
def _name_map(architecture: str) -> gguf.TensorNameMap:
    (kind,) = (key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    return gguf.get_tensor_name_map(kind, 10)


def _merged_experts(weights: dict[str, Array]) -> dict[str, Array]:
    """One tensor in the place of those of all experts of a layer."""
    merged: dict[str, list[Array]] = {}
    for name, weight in weights.items():
        head, found, tail = name.partition(".experts.")
        merged.setdefault(head + found + tail.split(".", 1)[-1], []).append(weight)
    return {
        name: np.stack(parts) if ".experts." in name else parts[0] for name, parts in merged.items()
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
