"""Grammars that a choice's text must fit: compiling them, and which tokens they allow next."""
