"""One check per file, named after its id."""
