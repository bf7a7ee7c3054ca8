"""The settings of an operator: which there are, what they may be, and where they come from."""
