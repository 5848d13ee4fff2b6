"""Checks of attribution, one per file, named after its id."""
