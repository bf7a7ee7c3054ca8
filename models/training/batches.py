"""The order of training data: windows of a token stream, which depend only on step and seed.

A step's batch does not depend on earlier steps. So an interrupted run continues as if nothing had
happened, and a branch of a run gets the same batches as the trunk. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.training.vocabulary import EOS_ID

type Tokens = NDArray[np.int32]


def documents(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Tokens]:
    """Each text's token ids, from BOS to EOS."""
    return [np.array([*tokenizer.encode(text).ids, EOS_ID], np.int32) for text in texts]


class Batches:
    """Batches of windows: [batch_size, window + 1] token ids; the last one is only a target."""

    def __init__(self, documents: list[Tokens], *, batch_size: int, window: int, seed: int) -> None:
        self._documents, self._batch_size, self._window = documents, batch_size, window
        self._seed = seed
        total = sum(map(len, documents))
        self.steps_per_epoch = (total - 1) // window // batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"{total} tokens are less than one batch")
        self._epoch, self._windows = -1, np.empty((0, window + 1), np.int32)

    def __getitem__(self, step: int) -> Tokens:
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._windows = epoch, self._shuffled(epoch)
        return self._windows[index * self._batch_size :][: self._batch_size]

    def _shuffled(self, epoch: int) -> Tokens:
        """The epoch's windows: documents joined in a new order, cut into windows, and shuffled."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._documents))
        stream = np.concatenate([self._documents[i] for i in order])
        starts = np.arange((len(stream) - 1) // self._window) * self._window
        return stream[rng.permutation(starts)[:, None] + np.arange(self._window + 1)]
