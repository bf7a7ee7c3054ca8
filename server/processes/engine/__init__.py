"""The engine process, of the leader and of followers: how it is put together, and its life."""
