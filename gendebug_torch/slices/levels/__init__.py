"""Columns as levels, slices as sets of levels."""
