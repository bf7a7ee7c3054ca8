"""Tokens that may come next, found in what a sequence has, and what drafts cost."""
