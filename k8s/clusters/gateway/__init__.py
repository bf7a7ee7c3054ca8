"""Envoy in front of both regions: the endpoints it sends to, and the pickers that choose them."""
