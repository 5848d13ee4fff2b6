"""The search for slices that are worse than expected."""
