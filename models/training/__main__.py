"""`python -m models.training`: makes both versions of `tiny` and prints their figures.

`--figures` trains nothing and prints the figures of the existing versions.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from models.huggingface.config_file import parse_config
from models.training import figures
from models.training.batches import Batches, documents
from models.training.corpus import Corpus, read_corpus
from models.training.export import write_version
from models.training.recipe import CONFIG, Recipe
from models.training.run import Run
from models.training.vocabulary import train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("models/tiny"))
    parser.add_argument("--states", type=Path, default=Path(".cache/training"))
    parser.add_argument("--figures", action="store_true", help="train nothing")
    args = parser.parse_args()
    corpus = read_corpus()
    if not args.figures:
        train(corpus, args.output, args.states)
    report(corpus, args.output)


def train(corpus: Corpus, output: Path, states: Path) -> None:
    """Write `<output>/1` and `<output>/2`; an interrupted run continues from `states`."""
    recipe, config = Recipe(), parse_config(CONFIG)
    tokenizer = train_tokenizer(corpus.training.values())
    batches = Batches(
        documents(tokenizer, corpus.training.values()),
        batch_size=recipe.batch_size,
        window=recipe.window,
        seed=recipe.seed,
    )
    for version, model in Run(config, recipe, batches, states).versions():
        write_version(model, tokenizer, output / version)


def report(corpus: Corpus, output: Path) -> None:
    """Print how well gzip and each version predict the held-out files."""
    texts = list(corpus.held_out.values())
    size = sum(len(text.encode()) for text in texts)
    print(f"Python {platform.python_version()}: {len(texts)} held-out files, {size} bytes")
    print(f"gzip -9    {figures.gzip_bits_per_byte(texts):.3f} bits per byte")
    for folder in sorted(output.glob("[0-9]*")):
        print(f"version {folder.name}  {figures.bits_per_byte(folder, texts):.3f} bits per byte")


if __name__ == "__main__":
    main()
