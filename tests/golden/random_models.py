"""Small random checkpoints, the same to the bit wherever they are made: nothing is stored but this.

Their shapes are those of `configs`. Needs NumPy and safetensors only, and Python 3.11: the
reference environment makes them too.
"""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.golden.configs import (
    CONFIGS,
    DENSE_SIZES,
    EMBEDDERS,
    MAX_SOFT_TOKENS,
    WITH_IMAGES,
)

_ALL = CONFIGS | EMBEDDERS | WITH_IMAGES
# Lines and columns of tokens of images whose sizes differ, one after another.
_GRIDS = ((4, 5), (2, 7), (20, 1), (3, 6), (1, 13))


def write(name: str, folder: Path) -> Path:
    """Write the checkpoint of that name into `folder`: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_ALL[name], indent=2) + "\n")
    save_file(weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    if name in EMBEDDERS:
        _write_modules(name, folder)
    if name in WITH_IMAGES and _is_gemma4(_ALL[name]):
        processor = {"image_processor": {"max_soft_tokens": MAX_SOFT_TOKENS, "patch_size": 4}}
        processor["image_processor"]["pooling_kernel_size"] = 2
        _write_json(folder / "processor_config.json", processor)
    return folder


def _write_modules(name: str, folder: Path) -> None:
    """What sentence-transformers writes: the mean, dense layers, and the norm."""
    kinds = ["Transformer", "Pooling", *["Dense"] * len(DENSE_SIZES), "Normalize"]
    modules = [
        {"path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    _write_json(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    for path, weight in dense_weights(name).items():
        size, taken = weight.shape
        config = {"in_features": taken, "out_features": size, "bias": False}
        identity = "torch.nn.modules.linear.Identity"
        _write_json(folder / path / "config.json", config | {"activation_function": identity})
        save_file({"linear.weight": weight}, folder / path / "model.safetensors")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def grid(name: str, number: int) -> tuple[int, int]:
    """The lines and columns of soft tokens of the model's image of that number."""
    config = _ALL[name]
    if _is_gemma4(config):
        return _GRIDS[number % len(_GRIDS)]
    side = round(config["mm_tokens_per_image"] ** 0.5)
    return side, side


def dense_weights(name: str) -> dict[str, NDArray[np.float32]]:
    """The matrix [out, in] of each dense layer, by its folder."""
    sizes = (_ALL[name]["hidden_size"], *DENSE_SIZES)
    return {
        f"{i + 2}_Dense": _uniform(f"{name}/{i + 2}_Dense", (size, taken))
        for i, (taken, size) in enumerate(itertools.pairwise(sizes))
    }


def weights(name: str) -> dict[str, NDArray[np.float32]]:
    """Every weight, float32, under its Hugging Face name."""
    config = _ALL[name]
    prefix = "model." if name in EMBEDDERS else ""
    return {
        weight.removeprefix(prefix): _scaled(config, weight, _uniform(f"{name}/{weight}", shape))
        for weight, shape in _shapes(config).items()
    }


def prompts(name: str, count: int = 24) -> list[list[int]]:
    """Token ids of `count` prompts of 1 to 47 tokens; where there is a window or a state, to 188.

    Those leave the window far behind, and the first chunk of keys that attention reads, and the
    first tiles of a state.
    """
    text = _text(_ALL[name])
    has_window = text.get("sliding_window") and text.get("use_sliding_window", True)
    has_window = has_window or _is_qwen3_5(text)
    longest = 192 if has_window else 48
    raw = _raw(f"{name}/prompts", count * longest).reshape(count, longest)
    lengths = [1 + 2 * i % 48 for i in range(count)]
    if has_window:
        lengths = [length * (4 if i % 6 == 5 else 1) for i, length in enumerate(lengths)]
    rows = zip(raw, lengths, strict=True)
    return [(row[:length] % text["vocab_size"]).tolist() for row, length in rows]


def prompts_with_images(name: str) -> list[tuple[list[int], list[int]]]:
    """Prompts of `prompts` with none to two images in them, and where each image's tokens begin."""
    begin, image, end = _image_tokens(_ALL[name])
    found, numbers = [], itertools.count()
    for i, prompt in enumerate(prompts(name)):
        # No text has an image's token.
        text = [token if token != image else 0 for token in prompt]
        places = sorted(place % (len(text) + 1) for place in (i, 7 * i)[: i % 3])
        starts: list[int] = []
        for place in places:
            at = place + len(text) - len(prompt)
            tokens = [begin, *[image] * int(np.prod(grid(name, next(numbers)))), end]
            text[at:at] = tokens
            starts.append(at + 1)
        found.append((text, starts))
    return found


def _image_tokens(config: dict[str, Any]) -> tuple[int, int, int]:
    """The tokens before, of and after an image."""
    end = "id" if _is_gemma4(config) else "index"
    return tuple(config[f"{name}_token_{end}"] for name in ("boi", "image", "eoi"))


def pixels(name: str, count: int) -> list[NDArray[np.uint8]]:
    """`count` images [height, width, 3] of RGB bytes."""
    vision = _ALL[name]["vision_config"]
    if not _is_gemma4(_ALL[name]):
        sizes = [(vision["image_size"],) * 2] * count
    else:
        cell = vision["patch_size"] * vision["pooling_kernel_size"]
        grids = [grid(name, number) for number in range(count)]
        sizes = [(lines * cell, columns * cell) for lines, columns in grids]
    raw = _raw(f"{name}/pixels", sum(height * width * 3 for height, width in sizes))
    values = (raw >> np.uint64(56)).astype(np.uint8)
    ends = np.cumsum([height * width * 3 for height, width in sizes])[:-1]
    parts = zip(np.split(values, ends), sizes, strict=True)
    return [part.reshape(*size, 3) for part, size in parts]


def _scaled(
    config: dict[str, Any], weight: str, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Of a size that keeps activations near one, and away from where a mistake would not show."""
    if weight.startswith(("vision_tower.", "multi_modal_projector.")):
        return _scaled_vision(weight, values)
    if ".linear_attn." in weight:
        return _scaled_recurrence(weight, values)
    if weight.startswith(("model.vision_tower.", "model.embed_vision.")):
        return _scaled_cell_vision(weight, values)
    if weight.endswith("q_norm.weight") and _is_gemma4(config):  # Nothing else scales scores.
        return (1 + values / 4) / 4
    if "norm" in weight or weight.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
        return values / 4 if _has_offset(config) else 1 + values / 4
    if weight.endswith("router.proj.weight"):  # What it is given is divided by the root already.
        return values * np.float32(12)
    if weight.endswith("router.weight"):  # Far apart, so that rounding chooses no other expert.
        return values * np.float32(12 / np.sqrt(values.shape[1]))
    if weight.endswith(("proj.weight", "gate.weight")):
        return values * np.float32(2 / np.sqrt(values.shape[1]))
    if weight.endswith(("experts.gate_up_proj", "experts.down_proj")):
        inputs = values.shape[2 if _is_gemma4(_text(config)) else 1]
        return values * np.float32(2 / np.sqrt(inputs))
    if "embed_tokens" in weight and _is_tied(config):
        # Small beside what the layers add: else the best token is always the one just read.
        return values / (32 if _is_gemma(config) else 8)
    return values


def _scaled_recurrence(weight: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some heads remember a few tokens, others a hundred."""
    if weight.endswith("A_log"):
        return values * np.float32(2) - np.float32(3)
    if weight.endswith("norm.weight"):
        return 1 + values / 4
    if "proj" in weight:
        return values * np.float32(2 / np.sqrt(values.shape[1]))
    return values


def _scaled_vision(weight: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if "layer_norm" in weight or "post_layernorm" in weight:
        return 1 + values / 4 if weight.endswith("weight") else values / 4
    if values.ndim == 1:
        return values / 4
    num_inputs = values.shape[0] if weight.endswith("projection_weight") else values[0].size
    return values * np.float32(2 / np.sqrt(num_inputs))


def _scaled_cell_vision(weight: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if "norm" in weight or weight.endswith("std_scale"):
        return 1 + values / 4
    if weight.endswith(("std_bias", "table")):
        return values
    return values * np.float32(2 / np.sqrt(values.shape[1]))


def _text(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("text_config", config)


def _is_gemma(config: dict[str, Any]) -> bool:
    """Gemma norms what attention and MLP return, and ties its head by default."""
    return config["model_type"].startswith("gemma")


def _is_gemma4(config: dict[str, Any]) -> bool:
    return config["model_type"].startswith("gemma4")


def _is_qwen3_5(config: dict[str, Any]) -> bool:
    return config["model_type"].startswith("qwen3_5")


def _has_offset(config: dict[str, Any]) -> bool:
    """Gemma up to 3, and Qwen3.5, scale by one plus the weight of a norm."""
    return (_is_gemma(config) and not _is_gemma4(config)) or _is_qwen3_5(config)


def _is_tied(config: dict[str, Any]) -> bool:
    return config.get("tie_word_embeddings", _is_gemma(config))


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    text = _text(config)
    hidden = text["hidden_size"]
    rest = _mlp_shapes(text) | _norm_shapes(text)
    mixer = _recurrence_shapes(text) if _is_qwen3_5(text) else {}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (text["vocab_size"], hidden)}
    for i in range(text["num_hidden_layers"]):
        is_recurrent = mixer and (i + 1) % 4
        layer = (mixer if is_recurrent else _attention_shapes(_of_layer(text, i))) | rest
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not _is_tied(config):
        shapes["lm_head.weight"] = (text["vocab_size"], hidden)
    if "vision_config" in config and _is_gemma4(config):
        shapes = {name.replace("model.", "model.language_model."): shapes[name] for name in shapes}
        return shapes | _gemma4_vision_shapes(config, hidden)
    if "vision_config" in config and _is_qwen3_5(config):
        # What no text depends on: a tower, and layers that guess further tokens.
        shapes = {name.replace("model.", "model.language_model."): shapes[name] for name in shapes}
        return shapes | {"model.visual.pos_embed.weight": (16, 16), "mtp.norm.weight": (hidden,)}
    if "vision_config" in config:
        shapes = {f"language_model.{name}": shape for name, shape in shapes.items()}
        shapes |= _vision_shapes(config["vision_config"], hidden)
    return shapes


def _of_layer(text: dict[str, Any], layer: int) -> dict[str, Any]:
    """The fields of one layer, whose heads may have sizes of their own."""
    if not _is_gemma4(text):
        return text
    kinds = text.get("layer_types")
    last = layer == text["num_hidden_layers"] - 1
    if not last and (kinds[layer] != "full_attention" if kinds else (layer + 1) % 6):
        return text | {"attention_k_eq_v": False}
    sizes = {"head_dim": text.get("global_head_dim")}
    if text["attention_k_eq_v"] and "num_global_key_value_heads" in text:
        sizes["num_key_value_heads"] = text["num_global_key_value_heads"]
    return text | text.get("per_layer_config", {}).get(str(layer), sizes)


def _recurrence_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads = text["hidden_size"], text["linear_num_value_heads"]
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    size, taps = text["linear_value_head_dim"], text["linear_conv_kernel_dim"]
    mixed, values = 2 * keys + heads * size, heads * size
    shapes = {
        "A_log": (heads,),
        "dt_bias": (heads,),
        "conv1d.weight": (mixed, 1, taps),
        "in_proj_qkv.weight": (mixed, hidden),
        "in_proj_z.weight": (values, hidden),
        "in_proj_a.weight": (heads, hidden),
        "in_proj_b.weight": (heads, hidden),
        "norm.weight": (size,),
        "out_proj.weight": (hidden, values),
    }
    return {f"linear_attn.{name}": shape for name, shape in shapes.items()}


def _attention_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    # The number of heads that a vision checkpoint leaves out.
    hidden, heads = text["hidden_size"], text.get("num_attention_heads", 8)
    kv_heads = text.get("num_key_value_heads", 4)
    head_dim = text.get("head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    gates = q if _is_qwen3_5(text) else 0
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (q + gates, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
    }
    if text["model_type"] == "gpt_oss":
        shapes |= {f"self_attn.{n}_proj.bias": (q if n == "q" else kv,) for n in "qkv"}
        shapes |= {"self_attn.o_proj.bias": (hidden,), "self_attn.sinks": (heads,)}
    if text["model_type"] == "qwen2":
        shapes |= {f"self_attn.{n}_proj.bias": (q if n == "q" else kv,) for n in "qkv"}
    if text.get("attention_k_eq_v"):
        del shapes["self_attn.v_proj.weight"]
    has_norms = text["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text")
    if has_norms or _is_gemma4(text) or _is_qwen3_5(text):
        shapes |= {f"self_attn.{n}_norm.weight": (head_dim,) for n in "qk"}
    return shapes


def _mlp_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    if text["model_type"] == "gpt_oss":
        return _joined_expert_shapes(text)
    if text.get("enable_moe_block"):
        dense = text | {"enable_moe_block": False, "num_experts": 0}
        return _mlp_shapes(dense) | _gemma4_expert_shapes(text)
    hidden, experts = text["hidden_size"], text.get("num_experts", 0)
    mlp = text["moe_intermediate_size"] if experts else text["intermediate_size"]
    one = {
        "gate_proj.weight": (mlp, hidden),
        "up_proj.weight": (mlp, hidden),
        "down_proj.weight": (hidden, mlp),
    }
    if not experts:
        return {f"mlp.{name}": shape for name, shape in one.items()}
    shapes = {f"mlp.experts.{i}.{name}": one[name] for i in range(experts) for name in one}
    if shared := text.get("shared_expert_intermediate_size"):
        mlp = _mlp_shapes(text | {"num_experts": 0, "intermediate_size": shared})
        shapes |= {name.replace("mlp.", "mlp.shared_expert."): mlp[name] for name in mlp}
        shapes["mlp.shared_expert_gate.weight"] = (1, hidden)
    return shapes | {"mlp.gate.weight": (experts, hidden)}


def _joined_expert_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """One tensor for all experts, stored as it multiplies."""
    d, f, experts = text["hidden_size"], text["intermediate_size"], text["num_local_experts"]
    return {
        "mlp.router.weight": (experts, d),
        "mlp.router.bias": (experts,),
        "mlp.experts.gate_up_proj": (experts, d, 2 * f),
        "mlp.experts.gate_up_proj_bias": (experts, 2 * f),
        "mlp.experts.down_proj": (experts, f, d),
        "mlp.experts.down_proj_bias": (experts, d),
    }


def _gemma4_expert_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """A router that scales what it reads and whom it chooses, and experts beside the MLP."""
    d, f, experts = text["hidden_size"], text["moe_intermediate_size"], text["num_experts"]
    return {
        "router.proj.weight": (experts, d),
        "router.scale": (d,),
        "router.per_expert_scale": (experts,),
        "experts.gate_up_proj": (experts, 2 * f, d),
        "experts.down_proj": (experts, d, f),
    }


def _norm_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    names = ["input_layernorm", "post_attention_layernorm"]
    if _is_gemma(text):
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    if text.get("enable_moe_block"):
        names += [f"post_feedforward_layernorm_{i}" for i in (1, 2)]
        names += ["pre_feedforward_layernorm_2"]
    shapes: dict[str, tuple[int, ...]] = {f"{n}.weight": (text["hidden_size"],) for n in names}
    return shapes | ({"layer_scalar": (1,)} if _is_gemma4(text) else {})


def _gemma4_vision_shapes(config: dict[str, Any], hidden: int) -> dict[str, tuple[int, ...]]:
    """A tower of one layer, or the patches' and sounds' matrices; no text depends on them."""
    vision = config["vision_config"]
    if config["audio_config"]:
        size, pixels = vision["mm_embed_dim"], 3 * (4 * 2) ** 2
        names = {"patch_ln1": pixels, "patch_ln2": size, "pos_norm": size, "patch_dense": size}
        shapes: dict[str, tuple[int, ...]] = {
            f"vision_embedder.{name}.{part}": (out,)
            for name, out in names.items()
            for part in ("weight", "bias")
        }
        shapes |= {
            "vision_embedder.patch_dense.weight": (size, pixels),
            "vision_embedder.pos_embedding": (vision["mm_posemb_size"], 2, size),
            "embed_vision.embedding_projection.weight": (hidden, size),
            "embed_audio.embedding_projection.weight": (
                hidden,
                config["audio_config"]["audio_embed_dim"],
            ),
        }
    else:
        shapes = _gemma4_tower_shapes(vision, hidden)
    return {f"model.{name}": shape for name, shape in shapes.items()}


def _gemma4_tower_shapes(vision: dict[str, Any], hidden: int) -> dict[str, tuple[int, ...]]:
    size, mlp = vision["hidden_size"], vision["intermediate_size"]
    heads = vision["num_attention_heads"] * vision["head_dim"]
    table = (2, vision["position_embedding_size"], size)
    shapes: dict[str, tuple[int, ...]] = {
        "vision_tower.patch_embedder.input_proj.weight": (size, 3 * vision["patch_size"] ** 2),
        "vision_tower.patch_embedder.position_embedding_table": table,
        "embed_vision.embedding_projection.weight": (hidden, size),
    }
    if vision.get("standardize"):
        shapes |= {f"vision_tower.std_{name}": (size,) for name in ("bias", "scale")}
    linear = {f"self_attn.{name}_proj": (heads, size) for name in "qkv"}
    linear |= {"self_attn.o_proj": (size, heads), "mlp.down_proj": (size, mlp)}
    linear |= {f"mlp.{name}_proj": (mlp, size) for name in ("gate", "up")}
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_tower.encoder.layers.{i}."
        shapes |= {f"{layer}{name}.linear.weight": shape for name, shape in linear.items()}
        shapes |= {f"{layer}{name}_layernorm.weight": (size,) for name in norms}
        shapes |= {f"{layer}self_attn.{n}_norm.weight": (vision["head_dim"],) for n in "qk"}
    return shapes


def _vision_shapes(vision: dict[str, Any], hidden: int) -> dict[str, tuple[int, ...]]:
    size, mlp, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tower: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (size, 3, patch, patch),
        "embeddings.patch_embedding.bias": (size,),
        "embeddings.position_embedding.weight": ((vision["image_size"] // patch) ** 2, size),
        "post_layernorm.weight": (size,),
        "post_layernorm.bias": (size,),
    }
    for i in range(vision["num_hidden_layers"]):
        layer = f"encoder.layers.{i}."
        linear = {f"{layer}self_attn.{n}_proj": (size, size) for n in ("q", "k", "v", "out")}
        linear |= {f"{layer}mlp.fc1": (mlp, size), f"{layer}mlp.fc2": (size, mlp)}
        tower |= {f"{name}.weight": shape for name, shape in linear.items()}
        tower |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
        norms = [f"{layer}layer_norm{n}.{part}" for n in (1, 2) for part in ("weight", "bias")]
        tower |= dict.fromkeys(norms, (size,))
    shapes = {f"vision_tower.vision_model.{name}": shape for name, shape in tower.items()}
    return shapes | {
        "multi_modal_projector.mm_input_projection_weight": (size, hidden),
        "multi_modal_projector.mm_soft_emb_norm.weight": (size,),
    }


def _uniform(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Multiples of 2^-23 in [-1, 1): exact in float32."""
    raw = (_raw(key, int(np.prod(shape))) >> np.uint64(40)).astype(np.float32)
    return (raw / np.float32(1 << 23) - 1).reshape(shape)


def _raw(key: str, count: int) -> NDArray[np.uint64]:
    """64-bit words: a bit generator's own stream is the one NumPy promises not to change."""
    return np.random.PCG64(zlib.crc32(key.encode())).random_raw(count)
