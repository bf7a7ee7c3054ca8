"""A checkpoint's tokenizer and the files that it is read from."""
