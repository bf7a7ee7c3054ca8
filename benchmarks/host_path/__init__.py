"""What the host costs per token, with a device whose step always takes the same time."""
