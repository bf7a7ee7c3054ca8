"""An accepted request's way back: token events in, deltas of text out."""
