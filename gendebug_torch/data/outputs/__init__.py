"""Outputs and labels of records."""
