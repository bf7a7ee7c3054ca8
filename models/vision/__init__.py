"""Images as tokens: the tower that reads them, and where their rows go in a step."""
