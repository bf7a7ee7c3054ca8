"""JSON over HTTP: how bodies are decoded without holding others up, and how structs are sent."""
