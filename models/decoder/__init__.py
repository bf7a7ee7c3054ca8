"""The mathematics of a decoder: layers, experts, rotary positions, 8-bit quantization."""
