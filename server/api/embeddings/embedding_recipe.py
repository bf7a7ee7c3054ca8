"""How a checkpoint wants its embeddings made: sentence-transformers' files, or a setting.

A step that cannot be done is a refusal by name: requests for embeddings get the sentence, and
requests for tokens are served as usual. Knows neither requests nor the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from server.api.embeddings.dense_layer import DenseLayer, DenseLayerError, read_dense_layer
from server.link.frames import Pooling

type PoolingSetting = Literal["auto", "last", "mean", "cls", "none"]

_MODULES = "modules.json"
# The modules that can be followed, in the order in which they can.
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_POOLING_FLAGS: Mapping[str, Pooling] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
_POOLING_NAMES: Mapping[str, Pooling] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}
_OFF = "this server makes no embeddings (--pooling none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRecipe:
    """How the hidden states of a text become its vector.

    `refusal`, unless empty, says why no embeddings are made. `size` is that of a whole vector, and
    `max_tokens` the most tokens of a text; 0 where the checkpoint does not say. `prompts` are texts
    to put in front, by name. `dense` layers follow the pooling. `no_tokens`, unless empty, says why
    the model generates none.
    """

    pooling: Pooling = "last"
    normalizes: bool = True
    refusal: str = ""
    size: int = 0
    max_tokens: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    dense: tuple[DenseLayer, ...] = ()
    no_tokens: str = ""

    def prompt(self, *names: str) -> str:
        """The text of the first of these names that the checkpoint has, else its default."""
        wanted = (*names, self.default_prompt)
        return next((self.prompts[name] for name in wanted if name in self.prompts), "")


class RecipeError(ValueError):
    """Files that ask for what this server does not do; the message names it."""


def read_recipe(checkpoint: Path, setting: PoolingSetting) -> EmbeddingRecipe:
    """The recipe of a checkpoint folder. `setting` decides the pooling unless it is auto.

    Without sentence-transformers' files, auto is the last token's normalized hidden state.
    """
    if setting == "none":
        return EmbeddingRecipe(refusal=_OFF)
    try:
        recipe = EmbeddingRecipe(size=_hidden_size(checkpoint))
        if (checkpoint / _MODULES).is_file():
            recipe = _with_prompts(checkpoint, _with_modules(checkpoint, recipe, setting))
    except (RecipeError, DenseLayerError) as error:
        return EmbeddingRecipe(refusal=f"this server makes no embeddings with this model: {error}")
    return recipe if setting == "auto" else replace(recipe, pooling=setting)


def _with_modules(
    checkpoint: Path, recipe: EmbeddingRecipe, setting: PoolingSetting
) -> EmbeddingRecipe:
    """The recipe by modules.json: a model, its pooling, dense layers, and whether vectors are
    normalized."""
    modules = _read_json(checkpoint / _MODULES)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise RecipeError(f"{_MODULES} is no list of modules")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if unknown := [kind for kind in kinds if kind not in _ORDER]:
        raise RecipeError(f"{_MODULES} asks for the module {unknown[0]}, which is not supported")
    if kinds != sorted(kinds, key=_ORDER.index):
        raise RecipeError(f"{_MODULES} has its modules in the order {', '.join(kinds)}")
    paths = [str(module.get("path", "")) for module in modules]
    dense = [path for path, kind in zip(paths, kinds, strict=True) if kind == "Dense"]
    recipe = _with_dense(checkpoint, dense, recipe)
    recipe = replace(
        recipe, normalizes="Normalize" in kinds, max_tokens=_max_seq_length(checkpoint)
    )
    if "Pooling" not in kinds or setting != "auto":
        return recipe
    path = paths[kinds.index("Pooling")]
    return replace(recipe, pooling=_pooling(_read_object(checkpoint / path / "config.json"), path))


def _with_dense(checkpoint: Path, paths: list[str], recipe: EmbeddingRecipe) -> EmbeddingRecipe:
    """The recipe with these layers; each must take what the one before it gives."""
    layers, size = tuple(read_dense_layer(checkpoint, path) for path in paths), recipe.size
    for path, layer in zip(paths, layers, strict=True):
        taken, given = layer.sizes
        if size not in (taken, 0):
            raise RecipeError(f"{path} takes vectors of {taken} numbers, but gets {size}")
        size = given
    return replace(recipe, dense=layers, size=size)


def _pooling(config: Mapping[str, Any], path: str) -> Pooling:
    """The one mode that a pooling module has on, in the older or the newer spelling."""
    if config.get("include_prompt") is False:
        raise RecipeError(f"{path} leaves the prompt's tokens out (include_prompt)")
    modes = [name for name, is_on in config.items() if name.startswith("pooling_mode_") and is_on]
    named = config.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
    known = [_POOLING_FLAGS.get(mode) or _POOLING_NAMES.get(mode) for mode in modes]
    if len(known) != 1 or known[0] is None:
        raise RecipeError(f"{path} asks for the pooling {' and '.join(map(str, modes)) or 'none'}")
    return known[0]


def _with_prompts(checkpoint: Path, recipe: EmbeddingRecipe) -> EmbeddingRecipe:
    path = checkpoint / "config_sentence_transformers.json"
    if not path.is_file():
        return recipe
    config = _read_object(path)
    prompts = {str(name): str(text) for name, text in (config.get("prompts") or {}).items()}
    default = str(config.get("default_prompt_name") or "")
    return replace(recipe, prompts=prompts, default_prompt=default if default in prompts else "")


def _max_seq_length(checkpoint: Path) -> int:
    path = checkpoint / "sentence_bert_config.json"
    config = _read_object(path) if path.is_file() else {}
    if config.get("do_lower_case"):
        raise RecipeError(
            f"{path.name} asks for lower case (do_lower_case), which is not supported"
        )
    found = config.get("max_seq_length")
    return found if isinstance(found, int) and found > 0 else 0


def _hidden_size(checkpoint: Path) -> int:
    config = _read_object(checkpoint / "config.json")
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("hidden_size")
    return found if isinstance(found, int) else 0


def _read_object(path: Path) -> dict[str, Any]:
    found = _read_json(path)
    if not isinstance(found, dict):
        raise RecipeError(f"{path.name} is not a JSON object")
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path.parent.name}/{path.name} cannot be read: {error}") from error
