"""Readers of past runs."""
