"""Audits of a suite: planted faults, redundant cases, and what explains failures."""
