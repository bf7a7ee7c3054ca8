"""HTTP mechanics that no protocol owns: errors, events, limits, disconnects, OpenAPI."""
