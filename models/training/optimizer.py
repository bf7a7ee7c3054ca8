"""Training steps: Muon for the matrices of the layers, Adam for embedding and norms.

Muon is that of Jordan et al. (2024), from optax. A step's learning rate is an argument, so that one
program serves warmup, plateau and annealing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from models.config import ModelConfig
from models.decoder.decoder import Decoder
from models.training.batches import Tokens
from models.training.loss import nats, one_device, training_layout
from models.training.recipe import Recipe


class State(NamedTuple):
    """The state of a run between steps; `step` counts the steps taken."""

    weights: Any
    optimizer: Any
    step: jax.Array


class Descent:
    """A model's training, one compiled step at a time."""

    def __init__(self, config: ModelConfig, recipe: Recipe) -> None:
        decoder = Decoder(nnx.Rngs(recipe.seed), config, training_layout())
        self._graphdef, weights = nnx.split(decoder)
        self._optimizer = optax.contrib.muon(
            recipe.muon_rate,
            adam_learning_rate=recipe.adam_rate,
            adam_b2=0.95,
            muon_weight_dimension_numbers=_matrices_of_layers,
        )
        self.start = State(weights, self._optimizer.init(weights), jnp.zeros((), jnp.int32))
        self._take = one_device(self._step)

    def step(self, state: State, tokens_BW: Tokens, rate: float) -> tuple[State, jax.Array]:
        """The next state, and the batch's loss before the step in nats per token.

        `rate` multiplies the recipe's learning rates.
        """
        taken: tuple[State, jax.Array] = self._take(state, tokens_BW, rate)
        return taken

    def model(self, state: State) -> Decoder:
        """The model with the state's weights."""
        model: Decoder = nnx.merge(self._graphdef, state.weights)
        return model

    def _step(self, state: State, tokens_BW: jax.Array, rate: float) -> tuple[State, jax.Array]:
        def loss(weights: Any) -> jax.Array:
            return jnp.mean(nats(nnx.merge(self._graphdef, weights), tokens_BW))

        value, gradient = jax.value_and_grad(loss)(state.weights)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.weights)
        updates = jax.tree.map(lambda update: update * rate, updates)
        weights = optax.apply_updates(state.weights, updates)
        return State(weights, optimizer, state.step + 1), value


def _matrices_of_layers(weights: Any) -> Any:
    """Marks the leaves for Muon: the matrices that map one vector to another."""

    def mark(path: tuple[Any, ...], weight: jax.Array) -> Any:
        is_matrix = weight.ndim == 2 and path[0].key == "layers"
        return optax.contrib.MuonDimensionNumbers() if is_matrix else None

    return jax.tree.map_with_path(mark, weights)
