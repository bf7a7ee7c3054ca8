"""The supported model families of GGUF files, with their names in both layouts.

Tensor names belong to one layer, without `blk.N.` and `model.layers.N.`. Letters stand for sizes:
D hidden, Q all query heads, K all KV heads, H one head, F the MLP, V the vocabulary, E the experts,
M one expert's MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.gguf import family_fields
from models.gguf.reader import GgufError, GgufFile


@dataclass(frozen=True, slots=True)
class TensorName:
    """One weight's two names and its shape in size letters, outermost first.

    Three letters: the file has one tensor for all experts, and `hugging_face` a place for the
    number of one.
    """

    gguf: str
    hugging_face: str
    sizes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """`interleaved_rope`: q and k rows are stored in the order of llama.cpp's rotary embedding.

    `layer` are the weights of each layer. A file has all `biases` or none. `unit_offset`: norms are
    stored one greater than Hugging Face has them. `fields` are those of config.json that no size
    says.
    """

    class_name: str
    model_type: str
    layer: tuple[TensorName, ...]
    interleaved_rope: bool = False
    unit_offset: bool = False
    has_experts: bool = False
    biases: tuple[TensorName, ...] = ()
    fields: Callable[[GgufFile, dict[str, Any]], dict[str, Any]] = family_fields.no_fields


EMBEDDING = TensorName("token_embd.weight", "model.embed_tokens.weight", "VD")
FINAL_NORM = TensorName("output_norm.weight", "model.norm.weight", "D")
HEAD = TensorName("output.weight", "lm_head.weight", "VD")
_ATTENTION = (
    TensorName("attn_norm.weight", "input_layernorm.weight", "D"),
    TensorName("attn_q.weight", "self_attn.q_proj.weight", "QD"),
    TensorName("attn_k.weight", "self_attn.k_proj.weight", "KD"),
    TensorName("attn_v.weight", "self_attn.v_proj.weight", "KD"),
    TensorName("attn_output.weight", "self_attn.o_proj.weight", "DQ"),
)
_MLP_NORM = (TensorName("ffn_norm.weight", "post_attention_layernorm.weight", "D"),)
_MLP = (
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

_SANDWICH_NORMS = (
    TensorName("post_attention_norm.weight", "post_attention_layernorm.weight", "D"),
    TensorName("ffn_norm.weight", "pre_feedforward_layernorm.weight", "D"),
    TensorName("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "D"),
)
_EXPERTS = (
    TensorName("ffn_gate_inp.weight", "mlp.gate.weight", "ED"),
    TensorName("ffn_gate_exps.weight", "mlp.experts.{}.gate_proj.weight", "EMD"),
    TensorName("ffn_up_exps.weight", "mlp.experts.{}.up_proj.weight", "EMD"),
    TensorName("ffn_down_exps.weight", "mlp.experts.{}.down_proj.weight", "EDM"),
)
_DENSE = _ATTENTION + _MLP_NORM + _MLP

_ARCHITECTURES = {
    "llama": Architecture(
        class_name="LlamaForCausalLM",
        model_type="llama",
        layer=_DENSE,
        interleaved_rope=True,
        biases=(*_QKV_BIASES, _OUTPUT_BIAS),
    ),
    "qwen2": Architecture(
        class_name="Qwen2ForCausalLM", model_type="qwen2", layer=_DENSE + _QKV_BIASES
    ),
    "qwen3": Architecture(
        class_name="Qwen3ForCausalLM", model_type="qwen3", layer=_DENSE + _QK_NORMS
    ),
    "qwen3moe": Architecture(
        class_name="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        layer=_ATTENTION + _QK_NORMS + _MLP_NORM + _EXPERTS,
        has_experts=True,
        fields=family_fields.qwen3_moe,
    ),
    "gemma2": Architecture(
        class_name="Gemma2ForCausalLM",
        model_type="gemma2",
        layer=_ATTENTION + _SANDWICH_NORMS + _MLP,
        unit_offset=True,
        fields=family_fields.gemma2,
    ),
    "gemma3": Architecture(
        class_name="Gemma3ForCausalLM",
        model_type="gemma3_text",
        layer=_ATTENTION + _QK_NORMS + _SANDWICH_NORMS + _MLP,
        unit_offset=True,
        fields=family_fields.gemma3,
    ),
}


def architecture_of(file: GgufFile) -> Architecture:
    """The file's family; GgufError for an unsupported family or unexpected experts."""
    name = file.required("general.architecture")
    if name not in _ARCHITECTURES:
        raise GgufError(f"architecture {name!r} is not supported; known: {sorted(_ARCHITECTURES)}")
    architecture = _ARCHITECTURES[name]
    if file.metadata.get(f"{name}.expert_count", 0) and not architecture.has_experts:
        raise GgufError(f"architecture {name!r} with experts is not supported, only dense models")
    return architecture
