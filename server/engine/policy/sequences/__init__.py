"""What a scheduler moves: sequences, and the rows of them that a step runs."""
