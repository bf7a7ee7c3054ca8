"""The shape of a decoder, from a checkpoint's config.json, as one frozen value.

`ModelConfig` is hashable, so it is a compile-time constant of every program. It describes every
supported family (Llama, Qwen, Mistral, Gemma) without naming one: a family is a choice of fields.
`huggingface` reads the fields from a config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from models.image_sizes import CellSizes, SquareSizes


class ModelConfigError(ValueError):
    """The server cannot serve a checkpoint's configuration; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched: `linear`, `yarn`, or Llama 3's by-wavelength form.

    Of YaRN: frequencies between `beta_slow` and `beta_fast` turns over the original context are
    blended, between whole dimensions with `truncate`, and rotated queries and keys are multiplied
    by `attention_factor`.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGrowth:
    """Queries far into a text are multiplied by 1 + beta ln(1 + floor(position / period))."""

    beta: float
    period: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """The rotary embedding of one kind of layers.

    `turning` is the share of a head's pairs that turn, the first ones; the others stay as they are.
    `part` is the share of a head, from its first number on, that is rotated like a head of that
    size; the rest stays as it is.
    """

    theta: float
    turning: float = 1.0
    part: float = 1.0
    scaling: RopeScaling | None = None
    query_growth: QueryGrowth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """A mixture of experts in place of the MLP; a router sends each token to its best experts.

    `biases`: router and experts have them. `stacked`: the checkpoint has one tensor for all experts
    of a layer, [E, in, out], whose columns alternate between gate and up. `beside_mlp`: each layer
    has an MLP too; both are given the same, each through a norm of its own, and are added up.
    `shared`: each layer has an MLP too, whose output a gate weighs before it is added.
    """

    num_experts: int
    num_experts_per_token: int
    expert_size: int
    renormalize: bool
    biases: bool = False
    stacked: bool = False
    beside_mlp: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceConfig:
    """The sizes of layers that keep a state in the place of keys and values: gated delta rule.

    A sequence's state is a matrix [key_dim, value_dim] for each value head, and the last
    `conv_size - 1` inputs of a causal convolution over queries, keys and values. Each key head
    serves `num_value_heads / num_key_heads` neighbouring value heads.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_size: int

    @property
    def key_size(self) -> int:
        """The numbers of a token's keys, or queries, of all heads."""
        return self.num_key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """The numbers of a token's values of all heads."""
        return self.num_value_heads * self.value_dim


# In the place of a layer's window: the layer has no attention, but a state (`RecurrenceConfig`).
RECURRENT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAttention:
    """The fields of `ModelConfig` in which global layers differ from local ones."""

    head_dim: int
    num_kv_heads: int
    keys_as_values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """A tower that reads an image, and the pooling of its output to soft tokens.

    An image of `image_size` x `image_size` pixels is cut into patches of `patch_size` x
    `patch_size`, of which `num_tokens` tokens are made, a square too. A channel's values x, 0 to
    255, are read as (x / 255 - mean) / std.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    image_size: int
    patch_size: int
    num_tokens: int
    norm_eps: float
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def sizes(self) -> SquareSizes:
        return SquareSizes(self.image_size, self.num_tokens)

    def sees_image(self, window: int | None) -> bool:
        """Whether an image's tokens see one another in the layers with this window."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CellVisionConfig:
    """A tower that reads an image in cells, about the image's aspect ratio; each is a token.

    An image has at most `num_tokens` cells of `cell_patches` x `cell_patches` patches, each of
    `patch_size` x `patch_size` pixels. Patches are told apart by `num_places` vectors per axis, and
    by the turning of queries and keys by `rope_theta`. `standardizes`: pooled values are shifted
    and scaled. `local_sight`: in local layers an image's tokens see one another; in global ones,
    and everywhere without it, none sees a later one.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    mlp_size: int
    patch_size: int
    cell_patches: int
    num_tokens: int
    num_places: int
    norm_eps: float
    rope_theta: float
    standardizes: bool
    local_sight: bool

    @property
    def sizes(self) -> CellSizes:
        return CellSizes(self.patch_size * self.cell_patches, self.num_tokens)

    def sees_image(self, window: int | None) -> bool:
        """Whether an image's tokens see one another in the layers with this window."""
        return self.local_sight and window is not None


type AnyVisionConfig = VisionConfig | CellVisionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder with grouped-query attention. Letters as in the shapes: V D L N K H F.

    `layer_windows`: per layer, the number of positions that a token attends to (itself included),
    or None for all positions up to its own. Windowed layers are called local, the others global.
    RECURRENT for a layer that has no attention: its sizes are in `recurrence`.
    `output_gate`: the query matrix also makes a gate for each number that attention returns.
    `unit_offset`: a norm's weight is stored as its difference from one.
    `post_norms`: the outputs of attention and MLP are normed before they join the residual.
    `*_softcap`: logits x become cap * tanh(x / cap).
    `stored_bits`: the bits of a weight in a checkpoint that is quantized. No program depends on it:
    a model is the same model however its versions are stored.
    `bidirectional`: a token also attends to later tokens, by as many as its layer's window lets it
    look back; such a model makes embeddings and generates nothing.
    `sinks`: each query head also attends to a learned score without a value (Xiao et al., 2023).
    `keys_as_values`: one matrix makes keys and values. `value_norm`: values are normed by head,
    without a weight. `layer_scale`: a number of its own multiplies what each layer returns.
    `global_attention`: what global layers have in the place of these fields; None: the same.
    `tensor_prefix`: the prefix of the decoder's tensor names in the checkpoint.
    `vision`: the tower whose rows take the place of embeddings; None for a model of text only.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    max_position: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_embeddings: bool
    dtype: str
    eos_token_ids: tuple[int, ...]
    layer_windows: tuple[int | None, ...]
    local_rope: RopeConfig
    attention_scale: float
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    keys_as_values: bool = False
    value_norm: bool = False
    layer_scale: bool = False
    global_attention: GlobalAttention | None = None
    output_gate: bool = False
    recurrence: RecurrenceConfig | None = None
    bidirectional: bool = False
    post_norms: bool = False
    unit_offset: bool = False
    activation: str = "silu"
    embedding_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    moe: MoeConfig | None = None
    tensor_prefix: str = "model"
    vision: AnyVisionConfig | None = None
    stored_bits: int | None = field(default=None, compare=False)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The distinct windows, which are the kinds of layers with KV; global layers first."""
        local = {window for window in self.kv_windows if window is not None}
        return (*((None,) if None in self.layer_windows else ()), *sorted(local))

    @property
    def kv_windows(self) -> tuple[int | None, ...]:
        """The windows of the layers that have keys and values, layer by layer."""
        return tuple(window for window in self.layer_windows if window != RECURRENT)

    @property
    def num_recurrent(self) -> int:
        """The number of layers that have a state."""
        return self.num_layers - len(self.kv_windows)

    @property
    def kinds(self) -> tuple[int | None, ...]:
        """The kinds of all layers: the windows, then RECURRENT if some layers have a state."""
        return (*self.windows, *((RECURRENT,) if self.num_recurrent else ()))

    @property
    def pattern(self) -> tuple[int | None, ...]:
        """The shortest list of windows that, repeated and cut off, gives all layers' windows."""
        windows, count = self.layer_windows, self.num_layers
        for size in range(1, count + 1):
            if all(windows[i] == windows[i % size] for i in range(count)):
                return windows[:size]
        return windows

    def of_kind(self, window: int | None) -> ModelConfig:
        """The configuration of the layers with this window: equal sizes in all of its layers."""
        if window == RECURRENT:
            return self
        if self.recurrence is not None:
            return replace(self, recurrence=None).of_kind(window)
        of_global = self.global_attention
        if of_global is None:
            return self
        if window is not None:
            return replace(self, global_attention=None)
        return replace(
            self,
            head_dim=of_global.head_dim,
            num_kv_heads=of_global.num_kv_heads,
            keys_as_values=of_global.keys_as_values,
            global_attention=None,
        )

    def of_layer(self, layer: int) -> ModelConfig:
        """The configuration of this layer and all others of its kind."""
        return self.of_kind(self.layer_windows[layer])

    def rope_of(self, window: int | None) -> RopeConfig:
        """The rotary embedding of the layers with this window."""
        return self.rope if window is None else self.local_rope
