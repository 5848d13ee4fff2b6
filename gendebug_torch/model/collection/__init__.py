"""Outputs of a model and views of its inputs, for every row, as records."""
