"""Fits and tests of a single curve."""
