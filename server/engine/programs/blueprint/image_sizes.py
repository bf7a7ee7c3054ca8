"""Whether a server reads images, and how much room a step has for them.

An image's tokens run in one step, next to a token of every other sequence. Knows no arrays.
"""

from __future__ import annotations

from dataclasses import replace

from models.config import AnyVisionConfig, ModelConfig
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.programs.blueprint.chip_memory import SizeError
from server.engine.programs.device_state import ImageSizes
from server.engine.programs.inputs.buckets import Ladder


def served_config(config: ModelConfig, engine: EngineConfig) -> ModelConfig:
    """The model as it is served: without its tower where prompts may have no images."""
    return config if engine.max_images_per_prompt else replace(config, vision=None)


def image_sizes(config: ModelConfig, ladder: Ladder) -> ImageSizes | None:
    """The room of a rank's largest step; None where no image is read."""
    vision = config.vision
    if vision is None:
        return None
    return ImageSizes(vision, ladder.max_num_batched_tokens // vision.sizes.least_tokens)


def step_of_image(vision: AnyVisionConfig, engine: EngineConfig) -> int:
    """The tokens of a step that has room for an image whatever else runs."""
    return vision.num_tokens + engine.max_num_seqs


def explained(error: SizeError, config: ModelConfig) -> SizeError:
    """The error, with what a model that reads images could do without."""
    if config.vision is None:
        return error
    return SizeError(f"{error}; or serve text only, by max_images_per_prompt 0")


def check_images(config: ModelConfig, engine: EngineConfig, ladder: Ladder) -> None:
    """Raises ConfigError where a step has no room for an image."""
    if config.vision is None:
        return
    least = step_of_image(config.vision, engine)
    if ladder.max_num_batched_tokens < least:
        raise ConfigError(
            f"max_num_batched_tokens is {ladder.max_num_batched_tokens}, but an image of"
            f" {config.vision.num_tokens} tokens next to {engine.max_num_seqs} sequences needs"
            f" {least} in a step: raise it, or set max_images_per_prompt to 0, to serve text only"
        )
