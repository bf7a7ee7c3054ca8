"""The mathematics of a decoder: layers, experts, positions, eight bits."""
