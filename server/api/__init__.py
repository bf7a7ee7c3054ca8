"""The API side: one service object, and one thin translator per protocol."""
