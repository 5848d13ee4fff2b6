"""Training dynamics of each row."""
