"""All that determines a server's programs, by arithmetic on shapes: layout, mesh and sizes."""
