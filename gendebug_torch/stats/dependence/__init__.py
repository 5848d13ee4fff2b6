"""How much rows that depend on each other say, in time and in groups."""
