"""A whole training run: trunk and branches, saved regularly, so an interruption loses a minute.

Knows neither corpus nor files of a checkpoint: batches go in, each version's model comes out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from models.config import ModelConfig
from models.decoder.decoder import Decoder
from models.training.batches import Batches
from models.training.optimizer import Descent, State
from models.training.recipe import Rate, Recipe

_SAVE_EVERY = 25


class Run:
    """Trains by a recipe. `folder` holds the saved states; another recipe needs an empty folder."""

    def __init__(self, config: ModelConfig, recipe: Recipe, batches: Batches, folder: Path) -> None:
        self._recipe, self._batches, self._folder = recipe, batches, folder
        self._descent = Descent(config, recipe)
        folder.mkdir(parents=True, exist_ok=True)

    def versions(self) -> Iterator[tuple[str, Decoder]]:
        """Each version's name and annealed model, as soon as it is done."""
        trunk = self._descent.start
        for branch in self._recipe.branches:
            name = branch.version
            trunk = self._advance(f"trunk-{name}", trunk, branch.start, self._recipe.trunk_rate)
            rate = self._recipe.branch_rate(branch)
            annealed = self._advance(f"version-{name}", trunk, branch.end, rate)
            yield name, self._descent.model(annealed)

    def _advance(self, leg: str, state: State, until: int, rate: Rate) -> State:
        """Train from `state`, or from the last saved state of this part of the run."""
        path = self._folder / f"{leg}.npz"
        if path.exists():
            state = _restore(path, state)
        for step in range(int(state.step), until):
            state, loss = self._descent.step(state, self._batches[step], rate(step))
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == until:
                _save(path, state)
                print(f"{leg}: step {step + 1} of {until}, {loss:.3f} nats a token", flush=True)
        return state


def _save(path: Path, state: State) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, *map(np.asarray, jax.tree.leaves(state)))
    os.replace(partial, path)


def _restore(path: Path, like: State) -> State:
    with np.load(path) as file:
        leaves = [file[name] for name in file.files]
    restored: State = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return restored
