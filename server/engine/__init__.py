"""The step loop. `policy` decides, `programs` is what is compiled, `device` runs the programs."""
