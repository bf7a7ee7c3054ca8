"""The API side: one service object, and one thin translator for each protocol."""
