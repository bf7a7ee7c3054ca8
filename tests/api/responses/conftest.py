"""A model that thinks and calls tools, in every test of this folder."""

from tests.api.speaking import engine, prompted, says, tokenizer

__all__ = ["engine", "prompted", "says", "tokenizer"]
