"""Versions of the model: finding, loading, proving, switching and going back."""
