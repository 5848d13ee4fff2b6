"""Clusters of errors in feature space."""
