"""JAX model code: imports neither the server nor any web library."""
