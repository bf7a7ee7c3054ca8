"""How well a checkpoint predicts text, in bits per byte, compared with gzip on the same text.

The model's figure is that of a lossless code. The model predicts every token of a file and its end
once, in windows that do not overlap, so the first tokens of a window have little context. gzip's
figure is for all files joined into one, at its strongest level, so that it can reuse what earlier
files contain.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.checkpoint.checkpoint import Checkpoint
from models.decoder.decoder import Decoder
from models.decoder.layout import DecoderLayout
from models.huggingface.config_file import read_config
from models.sharding import make_mesh
from models.training.batches import Tokens, documents
from models.training.loss import nats, one_device, training_layout
from models.weights.loading import abstract_decoder, load_leaves

WINDOW = 512
_BATCH = 8


def gzip_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits per byte of `gzip -9` over the texts joined into one."""
    data = "".join(texts).encode()
    return 8 * len(gzip.compress(data, 9)) / len(data)


def bits_per_byte(
    folder: Path,
    texts: Iterable[str],
    checkpoint: Checkpoint | None = None,
    layout: DecoderLayout | None = None,
) -> float:
    """Bits per byte of the folder's model, in float32 unless `layout` says otherwise.

    Each text is a document. `checkpoint` reads the weights, if they are not stored as floats.
    """
    texts = list(texts)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    graphdef, weights = nnx.split(load_model(folder, checkpoint, layout))
    cost = one_device(lambda weights, tokens: nats(nnx.merge(graphdef, weights), tokens))
    total = 0.0
    for tokens, is_counted in _batches(documents(tokenizer, texts)):
        total += float(np.sum(np.asarray(cost(weights, tokens)), where=is_counted))
    return total / math.log(2) / sum(len(text.encode()) for text in texts)


def load_model(
    folder: Path, checkpoint: Checkpoint | None = None, layout: DecoderLayout | None = None
) -> Decoder:
    """The folder's decoder on one device, in float32 unless `layout` says otherwise."""
    config = read_config(folder)
    abstract = abstract_decoder(config, layout or training_layout())
    leaves = load_leaves(abstract, checkpoint or Checkpoint(folder), make_mesh(config, 1))
    graphdef, weights = nnx.split(abstract)
    model: Decoder = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(weights), leaves))
    return model


def _batches(texts: list[Tokens]) -> Iterator[tuple[Tokens, NDArray[np.bool_]]]:
    """Windows [8, WINDOW + 1], and a mask [8, WINDOW] of the targets that belong to the text."""
    windows = [window for tokens in texts for window in _windows(tokens)]
    for start in range(0, len(windows), _BATCH):
        batch = windows[start : start + _BATCH]
        lengths = np.zeros((_BATCH, 1), np.int32)
        tokens = np.zeros((_BATCH, WINDOW + 1), np.int32)
        for row, window in enumerate(batch):
            lengths[row], tokens[row, : len(window)] = len(window) - 1, window
        yield tokens, np.arange(WINDOW) < lengths


def _windows(tokens: Tokens) -> Iterator[Tokens]:
    for start in range(0, len(tokens) - 1, WINDOW):
        yield tokens[start : start + WINDOW + 1]
