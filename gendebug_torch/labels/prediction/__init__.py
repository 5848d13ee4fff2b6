"""Predictions of labels by small networks that did not see them."""
