"""The API process: how it is put together, and its life from its task to its exit code."""
