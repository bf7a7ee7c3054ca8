"""Programs that end-to-end tests start in place of the server, or of a part of it."""
