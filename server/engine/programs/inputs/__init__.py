"""What a step and a slot are given: arrays of fixed sizes, built on the host."""
