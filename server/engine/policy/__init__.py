"""Which sequences run in the next step, over plain integers: imports no array library."""
