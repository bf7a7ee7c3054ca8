"""The supported model families of GGUF files, with their names in both layouts.

Tensor names belong to one layer, without `blk.N.` and `model.layers.N.`. Letters stand for sizes:
D hidden, Q all query heads, K all KV heads, H one head, F the MLP, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.gguf.reader import GgufError, GgufFile


@dataclass(frozen=True, slots=True)
class TensorName:
    """One weight's two names and its shape in size letters, outermost first."""

    gguf: str
    hugging_face: str
    sizes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """`interleaved_rope`: q and k rows are stored in the order of llama.cpp's rotary embedding.

    `extras` are the weights per layer in addition to the common ones. A file has all `biases` or
    none.
    """

    class_name: str
    model_type: str
    interleaved_rope: bool = False
    extras: tuple[TensorName, ...] = ()
    biases: tuple[TensorName, ...] = ()


EMBEDDING = TensorName("token_embd.weight", "model.embed_tokens.weight", "VD")
FINAL_NORM = TensorName("output_norm.weight", "model.norm.weight", "D")
HEAD = TensorName("output.weight", "lm_head.weight", "VD")
LAYER = (
    TensorName("attn_norm.weight", "input_layernorm.weight", "D"),
    TensorName("attn_q.weight", "self_attn.q_proj.weight", "QD"),
    TensorName("attn_k.weight", "self_attn.k_proj.weight", "KD"),
    TensorName("attn_v.weight", "self_attn.v_proj.weight", "KD"),
    TensorName("attn_output.weight", "self_attn.o_proj.weight", "DQ"),
    TensorName("ffn_norm.weight", "post_attention_layernorm.weight", "D"),
    TensorName("ffn_gate.weight", "mlp.gate_proj.weight", "FD"),
    TensorName("ffn_up.weight", "mlp.up_proj.weight", "FD"),
    TensorName("ffn_down.weight", "mlp.down_proj.weight", "DF"),
)
_QKV_BIASES = (
    TensorName("attn_q.bias", "self_attn.q_proj.bias", "Q"),
    TensorName("attn_k.bias", "self_attn.k_proj.bias", "K"),
    TensorName("attn_v.bias", "self_attn.v_proj.bias", "K"),
)
_OUTPUT_BIAS = TensorName("attn_output.bias", "self_attn.o_proj.bias", "D")
_QK_NORMS = (
    TensorName("attn_q_norm.weight", "self_attn.q_norm.weight", "H"),
    TensorName("attn_k_norm.weight", "self_attn.k_norm.weight", "H"),
)

_ARCHITECTURES = {
    "llama": Architecture(
        class_name="LlamaForCausalLM",
        model_type="llama",
        interleaved_rope=True,
        biases=(*_QKV_BIASES, _OUTPUT_BIAS),
    ),
    "qwen2": Architecture(class_name="Qwen2ForCausalLM", model_type="qwen2", extras=_QKV_BIASES),
    "qwen3": Architecture(class_name="Qwen3ForCausalLM", model_type="qwen3", extras=_QK_NORMS),
}


def architecture_of(file: GgufFile) -> Architecture:
    """The file's family; GgufError for an unsupported family or a mixture of experts."""
    name = file.required("general.architecture")
    if name not in _ARCHITECTURES:
        raise GgufError(f"architecture {name!r} is not supported; known: {sorted(_ARCHITECTURES)}")
    if file.metadata.get(f"{name}.expert_count", 0):
        raise GgufError(f"architecture {name!r} with experts is not supported, only dense models")
    return _ARCHITECTURES[name]
