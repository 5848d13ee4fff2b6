"""The attribution methods, one family per file."""
