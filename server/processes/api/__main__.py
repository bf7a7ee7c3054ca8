"""The life of an API process: reads its task and the model's files, serves, returns the exit code.

What the parts are is `process`'s. Commands of the main process come on a thread and are passed on
to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import uvloop

from models.checkpoint.sampling_defaults import GENERATION_CONFIG, sampling_defaults
from models.headless import why_no_tokens
from models.vision.image_format import ImageFormat
from server.api.embeddings.embedding_recipe import EmbeddingRecipe, read_recipe
from server.api.requests.defaults import of_model
from server.api.requests.generation import Sampling
from server.api.tokenizers.tokenizer import Tokenizer
from server.child_processes import Command, Task, receive_task, watch_commands
from server.config.server_config import ServerConfig
from server.logs import set_up_logging
from server.processes.api.beats import beat
from server.processes.api.images import image_format_of
from server.processes.api.process import FAILED, ApiProcess
from server.versions.served_model import find_model

_log = logging.getLogger(__name__)

# Python lets a thread run for 5 ms before others get the interpreter. The event loop needs it back
# several times for one probe, so with long texts in threads a probe would wait for each.
_SWITCH_SECONDS = 0.0005
# New objects before a collection of the young ones, and of these before one of the older ones. By
# default that is 700 and 10: a step of 256 streams then begins a collection, and every few seconds
# one that looks at all that the streams hold and stops them for several steps.
_YOUNG_OBJECTS, _YOUNG_COLLECTIONS = 10_000, 20


async def _run(
    task: Task,
    tokenizer: Tokenizer,
    recipe: EmbeddingRecipe,
    image_format: ImageFormat | None,
    defaults: Sampling,
) -> int:
    process = ApiProcess(task.config, task.link, tokenizer, recipe, image_format, defaults)
    watch_commands(commands_on(asyncio.get_running_loop(), process.command))
    beating = asyncio.create_task(beat(task.beats))
    try:
        return await process.run()
    finally:
        beating.cancel()


def commands_on(
    loop: asyncio.AbstractEventLoop, on_command: Callable[[Command], None]
) -> Callable[[Command], None]:
    """Pass commands on to the event loop. Without effect once the loop is closed.

    The loop also ends by itself, when the engine is gone, and then a command may come too late.
    """

    def pass_on(command: Command) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(on_command, command)

    return pass_on


def _read_recipe(checkpoint: Path, config: ServerConfig) -> EmbeddingRecipe:
    recipe = read_recipe(checkpoint, config.pooling)
    if recipe.refusal:
        _log.info("%s", recipe.refusal)
    return replace(recipe, no_tokens=why_no_tokens(checkpoint))


def _read_defaults(checkpoint: Path, config: ServerConfig) -> Sampling:
    """The model's own options of sampling. ValueError for a file that cannot be followed."""
    if config.generation_config == "none":
        return Sampling()
    found = sampling_defaults(checkpoint)
    if found:
        shown = ", ".join(f"{name} {value:g}" for name, value in found.items())
        _log.info(
            "requests that leave them out get the model's own %s (%s; --generation-config)",
            shown,
            GENERATION_CONFIG,
        )
    try:
        return of_model(found)
    except ValueError as error:
        raise ValueError(f"{checkpoint / GENERATION_CONFIG}: {error}") from None


def settle_collections() -> None:
    """Have garbage collected seldom, and never looked for among what is there by now: it stays."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS)


def main() -> int:
    """The whole life of an API process: read the task, serve, and return the exit code."""
    task = receive_task()
    set_up_logging(task.config.server, task.name)
    model = find_model(task.config.engine)
    try:
        tokenizer = Tokenizer.load(Path(model.path))
    except (OSError, ValueError) as error:
        _log.critical("cannot read the tokenizer of %s: %s", model.path, error)
        return FAILED
    try:
        defaults = _read_defaults(Path(model.path), task.config.server)
    except ValueError as error:
        _log.critical("cannot read the sampling options of %s: %s", model.path, error)
        return FAILED
    recipe = _read_recipe(Path(model.path), task.config.server)
    image_format = image_format_of(Path(model.path), task.config.engine.max_images_per_prompt)
    sys.setswitchinterval(_SWITCH_SECONDS)
    settle_collections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(task, tokenizer, recipe, image_format, defaults))


if __name__ == "__main__":
    sys.exit(main())
