"""A checkpoint's files in a folder or bucket: their checksums, and reading in bounded memory."""
