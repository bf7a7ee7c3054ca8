"""The KV blocks of one data rank: who holds which, and which are found again by prefix."""
