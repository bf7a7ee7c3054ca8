"""How `models/tiny` was made: corpus, tokenizer, training, figures.

`docs/benchmarks.md` has the numbers.

`python -m models.training` makes both versions again. Only this package needs optax, a development
dependency; nothing of the server or of the other models imports it.
"""
