"""Files that are read again when they change, and folders that are temporary."""
