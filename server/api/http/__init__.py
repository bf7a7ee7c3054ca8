"""The mechanics of HTTP for every protocol on it: errors, events, limits, disconnects, OpenAPI."""
