"""Maps each leaf of the model to its source, and so to the tensor names of Hugging Face."""

from __future__ import annotations

from typing import Any

from models.config import ModelConfig, MoeConfig
from models.decoder.layout import DecoderLayout
from models.weights.expert_sources import JoinedExperts, ScaledExperts, StackedExperts
from models.weights.recurrent_tensors import mixer_source
from models.weights.sources import (
    Folded,
    GateUp,
    KeysValues,
    Norm,
    Ones,
    Rows,
    Source,
    SplitInput,
    Vocabulary,
    Whole,
    expert_scales_of,
    quantized,
    scales_of,
)
from models.weights.vision_tensors import vision_sources

type Path = tuple[Any, ...]


def sources_of(
    path: Path, config: ModelConfig, layout: DecoderLayout, is_int8: bool
) -> list[Source]:
    """One source, or for a stacked leaf one per layer. `path` is the leaf's place in the model.

    `is_int8` says that the leaf's dtype is int8.
    """
    if path[0] == "vision":
        return vision_sources(path[1:], config)
    if path[0] != "layers":
        return [_top_source(path, config)]

    def source(layer: int) -> Source:
        of_kind = config.of_layer(layer)
        return _Layer(layer, of_kind, layout.kv_heads(of_kind)).source(path[2:], is_int8)

    return [source(layer) for layer in layout.stacks(config)[path[1]]]


def _top_source(path: Path, config: ModelConfig) -> Source:
    if path[0] == "norm":
        return Norm(f"{config.tensor_prefix}.norm.weight", config.hidden_size, config.unit_offset)
    embedding, head = vocabulary_names(config)
    name = head if path[0] == "head" else embedding
    return Vocabulary(name, config.vocab_size, config.hidden_size)


def vocabulary_names(config: ModelConfig) -> tuple[str, str]:
    """The names of the embedding and of the head, both [V, D]; a tied model needs one of them."""
    prefix = config.tensor_prefix
    return f"{prefix}.embed_tokens.weight", f"{prefix.removesuffix('model')}lm_head.weight"


class _Layer:
    """The sources of one layer's leaves. `config` is that of its kind; `kv_heads` counts copies."""

    def __init__(self, layer: int, config: ModelConfig, kv_heads: int) -> None:
        self._prefix = f"{config.tensor_prefix}.layers.{layer}"
        self._config, self._kv_heads = config, kv_heads

    def source(self, path: Path, is_int8: bool) -> Source:
        if path[-1] in ("gate_up_scale", "down_scale"):
            return expert_scales_of(self._matrix((*path[:-1], path[-1].removesuffix("_scale"))))
        if path[-1] == "scale" and not path[-2].endswith("norm"):
            return scales_of(self._matrix((*path[:-1], "kernel")))
        source = self._matrix(path)
        return quantized(source) if is_int8 else source

    def _matrix(self, path: Path) -> Source:
        match path[0]:
            case "attention_weight":
                return self._norm("input_layernorm")
            case "mlp_weight":
                return self._mlp_input_norm()
            case "attention_norm":
                return self._norm("post_attention_layernorm")
            case "mlp_norm":
                return self._norm("post_feedforward_layernorm")
            case "q_norm" | "k_norm":
                name = f"{self._prefix}.self_attn.{path[0]}.weight"
                return Norm(name, self._config.head_dim, self._config.unit_offset)
            case "scale":
                return Whole(f"{self._prefix}.layer_scalar", (1,))
            case "sinks":
                return Rows(f"{self._prefix}.self_attn.sinks", self._config.num_heads, ())
            case "kv_scale":
                return Ones((self._kv_heads, 2))
            case "projections":
                return self._attention(path)
            case "mixer":
                name, norm = f"{self._prefix}.linear_attn", self._norm("input_layernorm")
                return mixer_source(name, path[1], self._config, norm)
            case _ if self._config.moe is None:
                return self._mlp(path)
            case _ if self._config.moe.beside_mlp:
                return self._mlp_and_moe(path[1:], self._config.moe)
            case _:
                return self._moe(path)

    def _norm(self, name: str) -> Norm:
        config = self._config
        return Norm(f"{self._prefix}.{name}.weight", config.hidden_size, config.unit_offset)

    def _mlp_input_norm(self) -> Norm:
        pre = "pre_feedforward_layernorm" if self._config.post_norms else "post_attention_layernorm"
        return self._norm(pre)

    def _attention(self, path: Path) -> Source:
        config, name = self._config, f"{self._prefix}.self_attn"
        d, h, is_bias = config.hidden_size, config.head_dim, path[-1] == "bias"
        suffix, tail = ("bias", ()) if is_bias else ("weight", (d,))
        if path[1] == "output":
            if is_bias:
                return Whole(f"{name}.o_proj.bias", (d,))
            return SplitInput(f"{name}.o_proj.weight", d, config.num_heads * h)
        names = [f"{name}.{letter}_proj.{suffix}" for letter in "qkv"]
        source: Source = Rows(names[0], config.num_heads * h * (1 + config.output_gate), tail)
        if path[1] == "kv":
            made = names[1:2] if config.keys_as_values else names[1:]
            source = KeysValues(tuple(made), config.num_kv_heads, h, tail)
        return source if is_bias else Folded(source, self._norm("input_layernorm"))

    def _shared_expert(self, path: Path) -> Source:
        name = f"{self._prefix}.mlp.shared_expert"
        if path[0] == "dense":
            return self._mlp(path, name)
        gate = Whole(f"{name}_gate.weight", (1, self._config.hidden_size), True)
        return Folded(gate, self._mlp_input_norm())

    def _mlp(self, path: Path, name: str = "") -> Source:
        """Of the layer's MLP, or of one with another name; `path` has the part's name second."""
        d, f, name = self._config.hidden_size, self._config.mlp_size, name or f"{self._prefix}.mlp"
        is_bias = path[-1] == "bias"
        suffix = "bias" if is_bias else "weight"
        if path[1] == "gate_up":
            tail = () if is_bias else (d,)
            source = GateUp(f"{name}.gate_proj.{suffix}", f"{name}.up_proj.{suffix}", f, tail)
            return source if is_bias else Folded(source, self._mlp_input_norm())
        if is_bias:
            return Whole(f"{name}.down_proj.bias", (d,))
        return SplitInput(f"{name}.down_proj.weight", d, f)

    def _moe(self, path: Path) -> Source:
        config, moe = self._config, self._config.moe
        assert moe is not None
        d, f, name, norm = (
            config.hidden_size,
            moe.expert_size,
            f"{self._prefix}.mlp",
            self._mlp_input_norm(),
        )
        if moe.stacked:
            return self._joined_experts(path, moe)
        if path[1] == "shared":
            return self._shared_expert(path[2:])
        if path[1] == "router":
            return Folded(Whole(f"{name}.gate.weight", (moe.num_experts, d), True), norm)
        experts = [f"{name}.experts.{e}" for e in range(moe.num_experts)]
        if path[-1] == "down":
            return StackedExperts(tuple(SplitInput(f"{e}.down_proj.weight", d, f) for e in experts))
        pairs = ((f"{e}.gate_proj.weight", f"{e}.up_proj.weight") for e in experts)
        return StackedExperts(tuple(Folded(GateUp(*pair, f, (d,)), norm) for pair in pairs))

    def _mlp_and_moe(self, path: Path, moe: MoeConfig) -> Source:
        """Those of Gemma 4, whose router scales a norm without a weight, and then each expert."""
        d, f, e = self._config.hidden_size, moe.expert_size, moe.num_experts
        router, experts = f"{self._prefix}.router", f"{self._prefix}.experts"
        match path[-1]:
            case _ if path[0] == "dense":
                return self._mlp(path)
            case "scale":
                number = 1 if path[0] == "dense_norm" else 2
                return self._norm(f"post_feedforward_layernorm_{number}")
            case "router":
                norm = Norm(f"{router}.scale", d, False, factor=d**-0.5)
                return Folded(Whole(f"{router}.proj.weight", (e, d), True), norm)
            case "gate_up":
                joined = JoinedExperts(f"{experts}.gate_up_proj", (e, 2 * f, d), transposed=True)
                return Folded(joined, self._norm("pre_feedforward_layernorm_2"))
            case _:
                joined = JoinedExperts(f"{experts}.down_proj", (e, d, f), transposed=True)
                return ScaledExperts(joined, f"{router}.per_expert_scale")

    def _joined_experts(self, path: Path, moe: MoeConfig) -> Source:
        """Router and experts of a checkpoint that has one tensor for all experts of a layer."""
        d, f, e = self._config.hidden_size, moe.expert_size, moe.num_experts
        name, norm = f"{self._prefix}.mlp", self._mlp_input_norm()
        match path[-1]:
            case "router":
                return Folded(Whole(f"{name}.router.weight", (e, d), True), norm)
            case "router_bias":
                return Whole(f"{name}.router.bias", (e,))
            case "gate_up":
                shape = (e, d, 2 * f)
                return Folded(JoinedExperts(f"{name}.experts.gate_up_proj", shape, True), norm)
            case "gate_up_bias":
                return JoinedExperts(f"{name}.experts.gate_up_proj_bias", (e, 2 * f), True)
            case "down":
                return JoinedExperts(f"{name}.experts.down_proj", (e, f, d))
            case _:
                return JoinedExperts(f"{name}.experts.down_proj_bias", (e, d))
