"""Low-rank adapters of the model: naming, finding, loading beside serving, and unloading."""
