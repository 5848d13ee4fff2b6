"""Measures of calibration, with intervals."""
