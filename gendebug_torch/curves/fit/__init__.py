"""The statistics of one curve."""
