"""What an answer says, as events, and the readers of the tool calls that model families write."""
