"""Makes `models/tiny`: corpus, tokenizer, training, figures.

`docs/benchmarks.md` has the numbers.

`python -m models.training` makes both versions again. Only this package needs optax, a development
dependency. Neither the server nor the rest of `models` imports this package.
"""
