"""Records of past runs, read."""
