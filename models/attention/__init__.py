"""Attention over the paged KV pool: one interface (`base`), three backends, chosen by `choice`."""
