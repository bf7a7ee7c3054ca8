"""Where a layer of a window pattern lies: in which stack of weights, and at which place there.

Layers of equal shapes form a stack, in the order of the model. Arithmetic on the numbers of layers:
knows neither weights nor pools.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from models.config import RECURRENT, ModelConfig
from models.decoder.layout import DecoderLayout

type Window = int | None


def stacks_by_window(config: ModelConfig, layout: DecoderLayout) -> dict[Window, int]:
    """For each window, the stack that holds its layers."""
    return {
        config.layer_windows[layer]: stack
        for stack, layers in enumerate(layout.stacks(config))
        for layer in layers
    }


def pool_numbers(config: ModelConfig, layout: DecoderLayout) -> list[int]:
    """For each layer, the pool of its blocks or of its state among a decoder's pools.

    Stacked: one pool of each kind. Listed: one of each layer, those of states last.
    """
    if layout.stacked:
        return [config.kinds.index(window) for window in config.layer_windows]
    order = sorted(range(config.num_layers), key=lambda i: config.layer_windows[i] == RECURRENT)
    return [order.index(layer) for layer in range(config.num_layers)]


def place(pattern: tuple[Window, ...], group: Any, number: int, windows: Collection[Window]) -> Any:
    """The place, among all layers with these windows, of a group's layer `number`.

    A group is one repetition of the pattern.
    """

    def count(layers: tuple[Window, ...]) -> int:
        return sum(window in windows for window in layers)

    return group * count(pattern) + count(pattern[:number])
