"""How the scores of a model moved."""
